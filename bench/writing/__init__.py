"""Text that a model writes itself, through vLLM in a process of its own."""
