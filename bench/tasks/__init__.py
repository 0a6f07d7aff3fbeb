"""What a task name stands for; does not import lm-eval."""
