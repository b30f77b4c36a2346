"""The benchmark's results page."""
