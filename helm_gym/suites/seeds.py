"""Which seeds are for what: training, searches, comparisons; the ranges share no seed."""

from __future__ import annotations

TRAINING_SEEDS = range(0, 10_000)
"""Seeds that policies learn from."""
TUNING_SEEDS = range(10_000, 20_000)
"""Seeds for searches, hyper-parameters and early stopping."""
EVALUATION_SEEDS = range(20_000, 30_000)
"""Seeds that policies are compared on."""
SCORE_SEEDS = range(30_200, 30_300)
"""Seeds of ``helm-gym score``, for whoever improves a policy step by step."""
