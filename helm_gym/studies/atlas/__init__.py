"""Where adaptive splitting is worth it."""
