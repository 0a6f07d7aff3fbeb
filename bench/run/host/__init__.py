"""What a run does to the machine it runs on: lock, signals, disk, leftovers, environment."""
