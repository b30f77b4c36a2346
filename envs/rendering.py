"""One line of text per decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsFloat


def text_line(step: int, share: float, figures: Mapping[str, SupportsFloat]) -> str:
    """Describe a window.

    Args:
        step: decisions taken in this episode.
        share: EMB share in force (mean over the nodes that the row decides for).
        figures: the window's metrics.
    """
    value = {name: float(figure) for name, figure in figures.items()}
    return (
        f"step {step:3d}  EMB share {share:.3f}  P99 {value['p99_ms']:6.1f} ms  "
        f"SLO {value['slo_satisfaction']:.4f}  KV hit {value['kv_hit_rate']:.3f}  "
        f"EMB hit {value['emb_hit_rate']:.3f}  link {value['link_utilisation']:.2f}  "
        f"GPU {value['gpu_utilisation']:.2f}  shed {value['shed_rate']:.3f}"
    )
