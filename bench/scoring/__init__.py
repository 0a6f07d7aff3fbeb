"""Quality of a checkpoint: lm-eval tasks."""
