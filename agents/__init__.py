"""Learning policies and their training."""
