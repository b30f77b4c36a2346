"""Hardware presets (GPU, host link, model) and the cost model built from them."""
