"""Table models → what people and programs read."""
