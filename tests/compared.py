"""Whether two nested values are equal to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    elif isinstance(a, np.ndarray) and a.dtype == object:
        same(list(a), list(b))
    else:
        np.testing.assert_array_equal(a, b)
