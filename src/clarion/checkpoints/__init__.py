"""What survives: checkpoints and weights in files that execute nothing when they are read."""
