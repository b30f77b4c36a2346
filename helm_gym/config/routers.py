"""Names of the routers, and which of them need what."""

from __future__ import annotations

from enum import IntEnum


class RouterId(IntEnum):
    """Numbers that the kernel tells routers by; in lower case the names that scenarios use."""

    ROUND_ROBIN = 0
    LEAST_LOADED = 1
    CONSISTENT_HASH = 2
    KV_AFFINITY = 3
    PREDICTED_COMPLETION = 4
    HELM_SCORE = 5
    POWER_OF_TWO = 6
    EMB_AFFINITY = 7
    SGLANG_LIKE = 8
    DYNAMO_LIKE = 9
    FORESIGHT = 10


ROUTERS = tuple(router.name.lower() for router in RouterId)
"""Router names."""
KV_ROUTERS = (
    "kv_affinity",
    "predicted_completion",
    "helm_score",
    "sglang_like",
    "dynamo_like",
    "foresight",
)
"""Routers that prefer nodes which hold the user's KV."""
BOOKING_ROUTERS = ("sglang_like", "dynamo_like", "foresight")
"""Routers that keep books of what they have sent, unless ``books_own`` says otherwise."""
