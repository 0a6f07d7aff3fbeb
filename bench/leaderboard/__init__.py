"""Records → one table model, and what was published beside it."""
