"""Routers on the same requests."""
