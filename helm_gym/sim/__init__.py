"""The serving simulator: state, kernels and the object that drives them."""
