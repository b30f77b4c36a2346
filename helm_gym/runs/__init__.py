"""Running policies on seeds, and the statistics of what comes out."""
