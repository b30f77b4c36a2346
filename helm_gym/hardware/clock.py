"""A CPU or a CUDA GPU to time work on: warm-up, repeats, median and spread.

torch is imported when a machine is made, so that everything else works without it.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from helm_gym.errors import ConfigError
from helm_gym.units import US

Device = Literal["cpu", "cuda"]
Work = Callable[[], object]
Tensor = Any  # torch.Tensor, without torch

WARM_UP = 3
FEWEST_REPEATS, MOST_REPEATS = 5, 50
LEAD = 4  # copies of the other direction per timed one: still running when the last one ends
SHARE_OF_MEMORY = 0.25  # of the memory that is free; larger cases are left out


class UnavailableError(RuntimeError):
    """This machine cannot run a case; the message says why."""


@dataclass(frozen=True)
class Timing:
    """Times of repeated work.

    Args:
        median_us: median time.
        spread_us: interquartile range.
        repeats: how many times it ran.
    """

    median_us: float
    spread_us: float
    repeats: int


def chosen_device(name: str | None) -> Device:
    """Return the device that was asked for; without a wish CUDA where there is one."""
    if name not in (None, "cpu", "cuda"):
        raise ConfigError(f"--device {name}: write cuda or cpu")
    if name is None:
        return "cuda" if _torch().cuda.is_available() else "cpu"
    return "cuda" if name == "cuda" else "cpu"


def _torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise ConfigError(
            "measuring needs torch, which is not installed: pip install 'helm-gym[train]', or the "
            "torch build for your CUDA version from pytorch.org"
        ) from None
    return torch


def open_machine(device: Device, budget_s: float) -> Machine:
    """Return the machine to measure, or raise a :class:`ConfigError` that says what is missing.

    Args:
        device: ``cpu`` or ``cuda``.
        budget_s: about how long to repeat one case.
    """
    torch = _torch()
    if device == "cpu":
        return Machine(torch, budget_s)
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device cuda: torch {torch.__version__} finds no CUDA GPU; install a CUDA build of "
            "torch on a machine with one, or measure the CPU with --device cpu"
        )
    return CudaMachine(torch, budget_s)


class Machine:
    """The CPU: work is done when its call returns. Base of :class:`CudaMachine`.

    Args:
        torch: the module.
        budget_s: about how long to repeat one case.
    """

    kind: Device = "cpu"
    note = "CPU stand-in: a copy inside host memory, no link"

    def __init__(self, torch: Any, budget_s: float) -> None:
        self.torch = torch
        self.budget_s = budget_s
        self.device = torch.device(self.kind)
        self.dtype = torch.float32

    @property
    def name(self) -> str:
        """Of the hardware, as it stands in the files."""
        return f"{_cpu_name()} (CPU, {self.torch.get_num_threads()} threads)"

    @property
    def dtype_name(self) -> str:
        """As in the files: ``bf16`` or ``fp32``."""
        return {self.torch.bfloat16: "bf16", self.torch.float32: "fp32"}[self.dtype]

    def random(self, *shape: int) -> Tensor:
        """Normal numbers on the device."""
        return self.torch.randn(*shape, dtype=self.dtype, device=self.device)

    def host_buffer(self, size: int, pinned: bool) -> Tensor:
        """Bytes in host memory; only CUDA knows pinned ones."""
        return self.torch.zeros(size, dtype=self.torch.uint8)

    def device_buffer(self, size: int) -> Tensor:
        """Bytes on the device."""
        return self.torch.zeros(size, dtype=self.torch.uint8, device=self.device)

    def mapped(self, table: Tensor) -> Tensor:
        """View of host memory that the device reads by itself."""
        raise UnavailableError("a CPU has no link to read host memory through")

    def free_bytes(self) -> int:
        """Memory that is free on the device and on the host."""
        if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return 1 << 33  # systems that do not say: 8 GB

    def need(self, size: int) -> None:
        """Refuse a case that would fill the memory."""
        if size > SHARE_OF_MEMORY * self.free_bytes():
            raise UnavailableError(f"needs {size / 1e9:.1f} GB of memory, too much of what is free")

    def time(self, work: Work) -> Timing:
        """Run ``work`` a few times for nothing, then often enough to trust the median."""
        for _ in range(WARM_UP):
            work()
        self.synchronize()
        start = time.perf_counter()
        work()
        self.synchronize()
        once = max(time.perf_counter() - start, 1e-7)
        repeats = int(np.clip(self.budget_s / once, FEWEST_REPEATS, MOST_REPEATS))
        return _summary(self.clock(work, repeats))

    def time_beside(self, work: Work, other: Work) -> Timing:
        """Time ``work`` while ``other`` runs all the time."""
        over = threading.Event()

        def keep_busy() -> None:
            while not over.is_set():
                other()

        thread = threading.Thread(target=keep_busy, daemon=True)
        thread.start()
        try:
            return self.time(work)
        finally:
            over.set()
            thread.join()

    def synchronize(self) -> None:
        """Wait for everything that was started."""

    def clock(self, work: Work, repeats: int) -> list[float]:
        """Seconds of each of ``repeats`` runs."""
        found = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
        return found


class CudaMachine(Machine):
    """A CUDA GPU: work is timed by events on the stream it runs on."""

    kind: Device = "cuda"
    note = ""

    def __init__(self, torch: Any, budget_s: float) -> None:
        super().__init__(torch, budget_s)
        self.dtype = torch.bfloat16

    @property
    def name(self) -> str:
        """The GPU's name, as CUDA gives it."""
        return str(self.torch.cuda.get_device_name())

    def host_buffer(self, size: int, pinned: bool) -> Tensor:
        """Bytes in host memory."""
        return self.torch.zeros(size, dtype=self.torch.uint8, pin_memory=pinned)

    def mapped(self, table: Tensor) -> Tensor:
        """View of pinned host memory at the same address, which the GPU reads over the link."""
        array = table.numpy()
        window = _Window(
            {
                "shape": array.shape,
                "typestr": array.dtype.str,
                "data": (table.data_ptr(), False),
                "version": 3,
            },
            owner=table,
        )
        try:
            view = self.torch.as_tensor(window, device=self.device)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UnavailableError(f"torch cannot map pinned memory here ({error})") from None
        if view.data_ptr() != table.data_ptr():
            raise UnavailableError("torch copied the pinned memory instead of mapping it")
        if not self.torch.equal(view[:8].cpu(), table[:8]):
            raise UnavailableError("the GPU does not see what lies in pinned memory")
        return view

    def free_bytes(self) -> int:
        """The smaller of what is free on the GPU and on the host."""
        return min(int(self.torch.cuda.mem_get_info()[0]), super().free_bytes())

    def synchronize(self) -> None:
        """Wait for the GPU."""
        self.torch.cuda.synchronize()

    def clock(self, work: Work, repeats: int) -> list[float]:
        """Seconds of each run, between events before and after it."""
        pairs = [(self._event(), self._event()) for _ in range(repeats)]
        for before, after in pairs:
            before.record()
            work()
            after.record()
        self.synchronize()
        return [before.elapsed_time(after) * 1e-3 for before, after in pairs]

    def time_beside(self, work: Work, other: Work) -> Timing:
        """Time ``work`` on one stream while ``other`` fills a second one."""
        cuda = self.torch.cuda
        mine, theirs = cuda.Stream(), cuda.Stream()
        repeats = max(FEWEST_REPEATS, self.time(work).repeats // 2)
        pairs = [(self._event(), self._event()) for _ in range(repeats)]
        with cuda.stream(theirs):
            for _ in range(WARM_UP):
                other()
            begun = self._event()
            begun.record()
            for _ in range(LEAD * (repeats + WARM_UP)):
                other()
            ended = self._event()
            ended.record()
        with cuda.stream(mine):
            mine.wait_event(begun)
            for _ in range(WARM_UP):
                work()
            for before, after in pairs:
                before.record()
                work()
                after.record()
        self.synchronize()
        inside = [
            before.elapsed_time(after) * 1e-3
            for before, after in pairs
            if after.elapsed_time(ended) >= 0.0
        ]
        if len(inside) < FEWEST_REPEATS:
            raise UnavailableError("the copies of the other direction ended too early")
        return _summary(inside)

    def _event(self) -> Any:
        return self.torch.cuda.Event(enable_timing=True)


class _Window:
    """What torch reads an address and a shape from; it keeps the memory's owner alive."""

    def __init__(self, interface: dict[str, Any], owner: Tensor) -> None:
        self.__cuda_array_interface__ = interface
        self.owner = owner


def _summary(seconds: list[float]) -> Timing:
    low, median, high = np.quantile(np.array(seconds) / US, [0.25, 0.5, 0.75])
    # A clock that shows no time at all would make a speed infinite.
    return Timing(float(max(median, 1e-3)), float(high - low), len(seconds))


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"
