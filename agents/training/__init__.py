"""Training; the only room that needs torch."""
