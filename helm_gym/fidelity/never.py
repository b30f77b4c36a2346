"""What no comparison covers: the card says it first."""

from __future__ import annotations

from typing import NamedTuple


class Gap(NamedTuple):
    """Something that was never validated."""

    what: str
    why: str


NEVER = (
    Gap(
        "Latency end to end",
        "no published measurement of a generative recommender served on A100 exists, so every P99 "
        "is that of the model: its parts are compared below, their sum never was",
    ),
    Gap(
        "HSTU kernels on A100",
        "the attention terms are those of softmax attention; HSTU itself was compared on one block "
        "on another GPU (L20) only",
    ),
    Gap(
        "The published results of HELM",
        "no code, traces or generator settings were published with them; nothing here reproduces "
        "their figures",
    ),
    Gap(
        "Look-ups of candidates",
        "no public log holds the candidate rows that a ranking request looks up; the item streams "
        "below are of items looked at, one at a time",
    ),
    Gap(
        "Sizes of rows and tables, and histories of 8,000 to 15,000 items",
        "production values are not public; only KuaiRand-27K has histories as long, as totals",
    ),
    Gap(
        "The pace of recommendation calls within a page view",
        "logs record clicks; how many calls a click stands for is assumed (gap_scale)",
    ),
    Gap(
        "Bursts",
        "their shape is that of LLM and tweet traffic; whether they bring new users or hot items, "
        "which decides what they press on, is in no data",
    ),
    Gap(
        "Interest groups",
        "a replay's groups come from its log, but how far generated groups disagree is assumed",
    ),
    Gap(
        "Refill beside serving",
        "that throttled copies take only idle link time, and naive ones queue in front, are rules; "
        "nobody measured either on this path",
    ),
    Gap(
        "Routers on real clusters",
        "signals are fresh and free here; the queues below show that least_loaded is exact, not "
        "that a cluster could run it",
    ),
    Gap(
        "What is not modelled",
        "batching, several GPUs per node, KV offload to host memory, the network, failures",
    ),
)
