"""Time and memory of this installation."""
