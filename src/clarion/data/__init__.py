"""How what a loader yields becomes a batch."""
