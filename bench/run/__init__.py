"""A plan → records: pruning, scoring and serving, kept through kills and failures."""
