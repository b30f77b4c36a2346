"""Which kernel times of a scenario lie outside what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from helm_gym.hardware.attention import HEAD_DIM, Incremental, Prefill
from helm_gym.hardware.form import Calibrated
from helm_gym.hardware.gemm import Gemm
from helm_gym.hardware.presets import Gpu, ModelSpec

Span = tuple[float, float]  # smallest and largest size used

FORMS: dict[str, type[Calibrated]] = {"gemm": Gemm, "prefill": Prefill, "incremental": Incremental}
DIMENSIONS = tuple(f"{form}.{name}" for form, cls in FORMS.items() for name in cls.dimensions)
"""What can lie outside, as ``form.dimension``."""


def sizes_used(model: ModelSpec, history: Span, candidates: Span) -> Mapping[str, Span]:
    """Sizes that requests ask of the forms, by :data:`DIMENSIONS`.

    Args:
        model: the transformer.
        history: tokens, of the shortest and the longest.
        candidates: tokens, of the surface with the fewest and the most.
    """
    width = model.width.value
    heads = (width / HEAD_DIM, width / HEAD_DIM)
    shape = {"n_heads": heads, "n_kv_heads": heads, "head_dim": (HEAD_DIM, HEAD_DIM)}
    m = (candidates[0], history[1] + candidates[1])
    used: dict[str, dict[str, Span]] = {
        "gemm": {"m": m, "k": (width, width), "n": (width, 4.0 * width)},
        "prefill": {"batch": (1.0, 1.0), "seq_len": history, **shape},
        "incremental": {"n_new": candidates, "n_cached": history, **shape},
    }
    return {f"{form}.{name}": used[form][name] for form, name in map(_split, DIMENSIONS)}


def _split(dimension: str) -> tuple[str, str]:
    form, _, name = dimension.partition(".")
    return form, name


def outside(gpu: Gpu, used: Mapping[str, Span]) -> Iterator[tuple[str, str]]:
    """Yield every dimension that leaves the calibrated range, and a line with both ranges."""
    for dimension, (low, high) in used.items():
        form, name = _split(dimension)
        known = getattr(gpu, form).ranges.get(name)
        if known is not None and (low < known.low or high > known.high):
            yield (
                dimension,
                f"{dimension} is used from {low:,.0f} to {high:,.0f}, and was measured from "
                f"{known.low:,.0f} to {known.high:,.0f}",
            )
