"""``fidelity``, ``sensitivity`` and ``atlas``: how far the numbers can be believed, and where."""

from __future__ import annotations
