"""The page of the suite."""
