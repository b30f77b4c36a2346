"""The report of a benchmark: cells, ablations, plots, and the page that holds them."""
