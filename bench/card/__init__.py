"""A record as a model card."""
