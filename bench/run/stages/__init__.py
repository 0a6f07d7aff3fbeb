"""The stages of a run: prune, score, serve."""
