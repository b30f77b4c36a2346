"""Policies by name, searches, and comparisons on one scenario."""
