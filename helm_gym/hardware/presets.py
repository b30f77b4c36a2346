"""What a node is made of: GPU, host link and model, each a YAML file with a source per number."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from helm_gym.config.quantity import (
    Coefficient,
    Factor,
    Frozen,
    Gigabytes,
    Positive,
    Rate,
    Tokens,
    within,
)
from helm_gym.hardware.attention import Incremental, Prefill
from helm_gym.hardware.gemm import Gemm

FOLDER = Path(__file__).parent


class Gpu(Frozen):
    """A GPU's memory and its kernel-time forms, as ``helm-gym calibrate`` writes them.

    Args:
        name: of the preset.
        memory_gb: HBM.
        gemm: matrix products.
        prefill: causal attention of a whole history.
        incremental: attention of new tokens on cached ones.
        hstu_factor: HSTU attention over softmax attention, times both attention forms.
    """

    name: str
    memory_gb: Gigabytes
    gemm: Gemm
    prefill: Prefill
    incremental: Incremental
    hstu_factor: Factor


class Host(Frozen):
    """The path from host DRAM to HBM: random missing rows, and bulk refill copies."""

    name: str
    latency_us: Coefficient
    miss_gbps: Rate
    bulk_gbps: Rate
    keys_per_s: Rate


class ModelSpec(Frozen):
    """The transformer: KV bytes per token are ``2 * layers * width * 2`` (bf16)."""

    name: str
    layers: Annotated[Positive, within(1, 1e4)]
    width: Annotated[Positive, within(1, 1 << 17)]
    max_history: Tokens

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of keys and values that one history token occupies."""
        return 2.0 * self.layers.value * self.width.value * 2.0
