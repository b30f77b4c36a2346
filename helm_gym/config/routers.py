"""Names of the routers, and which of them need what."""

from __future__ import annotations

ROUTERS = (
    "round_robin",
    "least_loaded",
    "consistent_hash",
    "kv_affinity",
    "predicted_completion",
    "helm_score",
    "power_of_two",
    "emb_affinity",
    "sglang_like",
    "dynamo_like",
    "foresight",
)
"""Router names; the position is the id that the kernel switches on."""
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
