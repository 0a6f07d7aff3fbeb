"""What lies on disk: models, tensors, edits, output folders, YAML, whole files."""
