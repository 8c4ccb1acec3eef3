"""What is in a log, before any training."""
