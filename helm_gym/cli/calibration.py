"""``calibrate`` and ``measure``: coefficients for another GPU, and the files to fit them to."""

from __future__ import annotations
