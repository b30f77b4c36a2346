"""Policies without learning, and the benchmark."""
