"""Means of the laws that sessions follow: how many requests, and how far apart."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr

from helm_gym.config.workload import Gap, LogNormal


def mean_length(law: LogNormal) -> float:
    """Mean of a lognormal rounded up, by summing its tail."""
    k = np.arange(1, 20_000)
    tail = 1.0 - ndtr((np.log(k) - law.log_mean.value) / law.log_sigma.value)
    return float(1.0 + tail.sum())


def mean_gap(law: Gap, scale: float) -> float:
    """Mean of a lognormal cut at ``cut_s``, scaled (s)."""
    mu, sigma = law.log_mean.value, law.log_sigma.value
    cut = (math.log(law.cut_s.value) - mu) / sigma
    return float(scale * math.exp(mu + sigma**2 / 2) * ndtr(cut - sigma) / ndtr(cut))
