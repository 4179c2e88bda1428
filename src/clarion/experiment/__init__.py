"""A directory that remembers: logs, checkpoints, plots, and going on where it stopped."""
