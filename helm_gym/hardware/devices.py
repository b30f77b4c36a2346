"""What data sheets say about GPUs, and which GPU the text in a ``hardware`` column means."""

from __future__ import annotations

import re
from typing import NamedTuple

from helm_gym.errors import ConfigError


class Device(NamedTuple):
    """Data-sheet figures of a GPU.

    Args:
        family: such as ``A100``.
        sms: multiprocessors.
        memory_gb: GB = 1e9 bytes.
        peak_tflops: dense bf16 (fp16 before Ampere), None if not known here.
        source: of the figures.
    """

    family: str
    sms: int
    memory_gb: float
    peak_tflops: float | None
    source: str


# Multiprocessors, memory and peak rate, from NVIDIA's data sheets and architecture papers; of
# several memory sizes or form factors the largest, unless the name says another size.
_DATA_SHEETS = {
    "T4": (40, 16.0, 65.0),
    "V100": (80, 32.0, 125.0),
    "A10": (72, 24.0, 125.0),
    "A30": (56, 24.0, 165.0),
    "A40": (84, 48.0, 149.7),
    "A100": (108, 80.0, 312.0),
    "L4": (58, 24.0, 121.0),
    "L20": (92, 48.0, 119.5),
    "L40": (142, 48.0, 181.0),
    "L40S": (142, 48.0, 362.0),
    "H100": (132, 80.0, 989.4),
    "H200": (132, 141.0, 989.4),
}
# "A100-SXM4-80GB" -> A100, "Quadro RTX 6000 (PCIe Gen3)" -> RTX 6000: the leftmost counts.
_FAMILY = re.compile(r"\b(?:RTX|GTX) ?A?\d{4}\b|\b[A-Z]{1,2}\d{1,4}[A-Z]?\b", re.IGNORECASE)
_MEMORY = re.compile(r"\b(\d{2,3}) ?GB\b", re.IGNORECASE)


def family(hardware: str) -> str:
    """The GPU that a text names, such as ``A100``; the whole text if it names none known."""
    found = _FAMILY.search(hardware)
    return " ".join((found.group() if found else hardware).upper().split())


def device(hardware: str, sms: int | None = None, memory_gb: float | None = None) -> Device:
    """Look a GPU up; ``sms`` and ``memory_gb`` replace or complete what is known of it."""
    name = family(hardware)
    known_sms, known_memory, peak = _DATA_SHEETS.get(name, (None, None, None))
    stated = _MEMORY.search(hardware)
    memory = memory_gb or (float(stated.group(1)) if stated else known_memory)
    multiprocessors = sms or known_sms
    if multiprocessors is None or memory is None:
        raise ConfigError(
            f"{hardware!r}: its multiprocessors and memory are not known here "
            f"(known: {', '.join(_DATA_SHEETS)}); give --sms and --memory-gb from its data sheet "
            "(for a CPU: --sms CORES)"
        )
    given = sms is not None or memory_gb is not None
    source = "set by the user" if given else "NVIDIA data sheet"
    return Device(name, multiprocessors, memory, peak, source)
