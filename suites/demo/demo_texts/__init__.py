"""The hand-written material of the demo tasks: fact tables, word lists and short texts."""
