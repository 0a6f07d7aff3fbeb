"""The published commands, and what the published implementation does differently."""
