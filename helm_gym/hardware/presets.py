"""What a node is made of: GPU, host link and model, each a YAML file with a source per number."""

from __future__ import annotations

from pathlib import Path

from helm_gym.quantity import Frozen, Positive

FOLDER = Path(__file__).parent


class Gemm(Frozen):
    """``t = launch + 2mnk/tflops + 2(mk+kn+mn)/gbps`` of one bf16 matrix product."""

    launch_us: Positive
    tflops: Positive
    gbps: Positive


class Prefill(Frozen):
    """Causal self-attention of S tokens: ``t = launch + 2dS²/tflops + per_key*S + 8dS/gbps``."""

    launch_us: Positive
    tflops: Positive
    per_key_ns: Positive
    gbps: Positive


class Incremental(Frozen):
    """n queries on L cached keys: ``t = launch + 4dnL/cross + 2dn²/self + per_query*n``."""

    launch_us: Positive
    cross_tflops: Positive
    self_tflops: Positive
    per_query_ns: Positive


class Gpu(Frozen):
    """A GPU's memory and the coefficients of its kernel-time forms."""

    name: str
    memory_gb: Positive
    gemm: Gemm
    prefill: Prefill
    incremental: Incremental
    hstu_factor: Positive


class Host(Frozen):
    """The path from host DRAM to HBM: random missing rows, and bulk refill copies."""

    name: str
    latency_us: Positive
    miss_gbps: Positive
    bulk_gbps: Positive
    keys_per_s: Positive


class ModelSpec(Frozen):
    """The transformer: KV bytes per token are ``2 * layers * width * 2`` (bf16)."""

    name: str
    layers: Positive
    width: Positive
    max_history: Positive

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of keys and values that one history token occupies."""
        return 2.0 * self.layers.value * self.width.value * 2.0
