"""The best schedule of a stream whose requests are all known."""
