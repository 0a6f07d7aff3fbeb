"""The stages of a run: prune, heal, score, serve."""
