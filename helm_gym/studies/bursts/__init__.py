"""How soon bursts are noticed, and what recovery does."""
