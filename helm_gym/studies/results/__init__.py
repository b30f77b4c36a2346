"""The controller against its opponents."""
