"""Answers to generation tasks, written by vLLM in processes of its own."""
