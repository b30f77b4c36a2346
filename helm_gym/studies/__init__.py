"""Questions that are answered by running many simulations."""
