"""What else uses the engine's cores and GPUs, read in its process between the timed runs."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from bench.serving.result import Neighbours

IDLE = ("idle", "iowait")
TWICE = ("guest", "guest_nice")  # the kernel counts guests in user and nice, too


@dataclass(frozen=True)
class Reading:
    """Seconds since some start: passed, in which the cores were busy, and in which we kept them busy."""

    passed: float
    busy: float
    own: float


class Gpus:
    """The processes on some GPUs and their clocks.

    Args:
        nvml: the module ``pynvml``, initialised.
        handles: NVML's, of the GPUs.
    """

    def __init__(self, nvml: Any, handles: list[Any]) -> None:
        self.nvml, self.handles = nvml, handles
        self.processes: list[int | None] = []
        self.clocks: list[int | None] = []

    def read(self, own: set[int]) -> None:
        """Note clocks and the processes beside our own, given by their ids, as they are now."""
        self.processes.append(self._count_others(own))
        self.clocks.append(self._read_clock())

    def collect(self) -> tuple[list[int] | None, list[int] | None]:
        """The counts and clocks noted since the last call; unknown where one of them is."""
        counts, clocks, self.processes, self.clocks = self.processes, self.clocks, [], []
        return _all_known(counts), _all_known(clocks)

    def _count_others(self, own: set[int]) -> int | None:
        """Unknown where none is ours: in a container, NVML may call ours something else."""
        seen: set[int] = set()
        with suppress(self.nvml.NVMLError):
            for handle in self.handles:
                seen |= {found.pid for found in self.nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        return len(seen - own) if seen & own else None

    def _read_clock(self) -> int | None:
        with suppress(self.nvml.NVMLError):
            clock = self.nvml.NVML_CLOCK_SM
            return min(int(self.nvml.nvmlDeviceGetClockInfo(handle, clock)) for handle in self.handles)
        return None


class Watch:
    """Watches an engine's neighbours; made in the process that started it, when it runs.

    Args:
        gpus: those that the engine uses; None: it computes on the CPU, or they are unknown.
    """

    def __init__(self, gpus: Gpus | None) -> None:
        here = psutil.Process()
        self.processes = [here, *here.children(recursive=True)]
        self.cores = _usable_cores()
        self.gpus = gpus
        self.shares: list[tuple[float, float]] = []
        self.loads: list[float] = []

    def start_run(self) -> None:
        """Note where the clocks stand before a timed run."""
        self.before = self._read()

    def end_run(self) -> None:
        """Note what has been used since ``start_run``."""
        now, before = self._read(), self.before
        capacity = (now.passed - before.passed) * len(self.cores)
        own, busy = now.own - before.own, now.busy - before.busy
        self.shares.append(((busy - own) / capacity, own / capacity))
        self.loads.append(os.getloadavg()[0])
        if self.gpus:
            self.gpus.read({process.pid for process in self.processes})

    def collect(self) -> Neighbours:
        """What was noted since the last call, one value for each timed run."""
        others, own = zip(*self.shares, strict=True)
        processes, clocks = self.gpus.collect() if self.gpus else (None, None)
        found = Neighbours(
            other_cpu_share=[*others],
            own_cpu_share=[*own],
            load_average=self.loads,
            other_gpu_processes=processes,
            sm_clock_mhz=clocks,
        )
        self.shares, self.loads = [], []
        return found

    def _read(self) -> Reading:
        every = psutil.cpu_times(percpu=True)
        busy = sum(count_busy(every[core]) for core in self.cores)
        return Reading(time.monotonic(), busy, sum(map(_used, self.processes)))


def count_busy(times: Any) -> float:
    """Seconds in which a core was not idle, those that were stolen from this machine included.

    Args:
        times: of the core, from ``psutil.cpu_times``.
    """
    counted = [seconds for name, seconds in times._asdict().items() if name not in IDLE + TWICE]
    return float(sum(counted))


def _usable_cores() -> list[int]:
    """The cores that this process, and so the engine, may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return [*range(os.cpu_count() or 1)]


def _used(process: psutil.Process) -> float:
    """CPU seconds of a process; one that has ended is not ours any more."""
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _all_known(values: list[int | None]) -> list[int] | None:
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None
