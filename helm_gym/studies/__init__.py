"""Studies whose results stand in docs/, a folder each: a plan, what is measured, a page."""
