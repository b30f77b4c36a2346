"""One seed, named random streams.

A stream is a SplitMix64 counter state (one ``uint64``) that a kernel advances. Streams are named by
what they decide, so that two policies on the same seed meet the same requests: no stream is ever
consumed by something that depends on an action (common random numbers).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """What each random stream decides."""

    START = 0  # instants of session starts
    USER = 1  # whose session it is
    SURFACE = 2  # which surface it is on
    LENGTH = 3  # how many requests it has
    GAP = 4  # time between requests of a session
    BURST = 5  # whether a session belongs to a burst, and what it brings
    ITEMS = 6  # how many items a request appends to the history


N_STREAMS = len(Stream)


def draw_streams(rng: np.random.Generator) -> NDArray[np.uint64]:
    """Draw the state of every stream from an environment's generator.

    Args:
        rng: the environment's ``np_random``; consumed by one call of fixed size.

    Returns:
        (N_STREAMS,) uint64 counter states.
    """
    return rng.integers(0, 2**64, size=N_STREAMS, dtype=np.uint64)


def streams_from_seed(seed: int) -> NDArray[np.uint64]:
    """Stream states for a plain integer seed (used where there is no environment)."""
    words = np.random.SeedSequence(seed).generate_state(N_STREAMS, np.uint64)
    return words.astype(np.uint64)
