"""The residual that is learned online."""
