"""Synthetic ``extended`` observations for tests of classical policies."""

from __future__ import annotations

import numpy as np

from helm_gym.envs.observation import FEATURES
from helm_gym.envs.reading import INDEX

CALM = {
    "emb_share": 0.5,
    "link_utilisation": 0.6,
    "gpu_utilisation": 0.6,
    "kv_hit_rate": 0.6,
    "emb_hit_rate": 0.6,
    "p99": 0.3,
    "mean_latency": 0.2,
    "arrival_rate_fast": 0.5,
    "arrival_rate_slow": 0.5,
    "mean_sequence_length": 0.6,
    "mean_candidates": 0.3,
    "marginal_emb": 0.5,
    "marginal_kv": 0.5,
}


def observed(rows: int = 1, **features: float) -> np.ndarray:
    """(rows, F) calm observations but for some features, squeezed as an environment has them."""
    obs = np.zeros((rows, len(INDEX)), np.float32)
    for name, value in {**CALM, **features}.items():
        obs[:, INDEX[name]] = value
    return obs


def calm(share: float) -> np.ndarray:
    """A window in which both stages are alike."""
    return observed(emb_share=share)


def wandering(rows: int, windows: int, seed: int = 0) -> np.ndarray:
    """(windows, rows, F) observations anywhere in their ranges, marginals and loads included."""
    rng = np.random.default_rng(seed)
    features = FEATURES["extended"]
    low = np.array([feature.low for feature in features])
    high = np.array([feature.high for feature in features])
    return rng.uniform(low, high, (windows, rows, len(features))).astype(np.float32)


def squeezed(value: float) -> float:
    """x / (x + 1)."""
    return value / (value + 1.0)
