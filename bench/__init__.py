"""The harness around the pruner: runs a suite, scores and serves every variant, writes leaderboards."""
