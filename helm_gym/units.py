"""Unit conversions at the border; inside the simulator everything is seconds, bytes and FLOP."""

from __future__ import annotations

GB = 1e9  # bytes; GB is decimal everywhere, GiB is never meant
MB = 1e6  # bytes
MS = 1e-3  # s
US = 1e-6  # s
NS = 1e-9  # s
TFLOPS = 1e12  # FLOP/s
GBPS = 1e9  # bytes/s
