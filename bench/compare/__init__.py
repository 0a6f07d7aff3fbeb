"""What the numbers allow to say: regressions, history, the variant to ship."""
