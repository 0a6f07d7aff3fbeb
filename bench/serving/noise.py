"""Whether something else disturbed a measurement, judged from what was recorded beside its times."""

from __future__ import annotations

import operator

from bench.serving.result import Neighbours, ServingResult, WorkloadResult
from bench.serving.spec import Workload

MAX_CPU_SHARE = 0.05
"""Others with a share s of the cores slow an engine on all of them to 1 / (1 − s) of its time at least:
by as much as ``compare`` tolerates."""

CLOCK_TICK = 0.01
"""Seconds: a share is uncertain by a tick at either end of the timed runs."""

MAX_SPREAD = 0.15
"""Of 24 measurements of the demo on two idle cores, all spread by at most 0.11; of the 8 of one run
beside another program, which took up to 1.6 times as long, four by 0.16 to 0.21."""

MAX_GPU_PROCESSES = 0
"""A process that holds a GPU may use it at any time."""

MIN_CLOCK = 0.8
"""Lowest clock of a GPU over its highest in the timed runs. A smaller change is the ordinary one of a
GPU under load, and what it does to the times is in their spread."""


def find_noise(result: ServingResult) -> dict[Workload, str]:
    """What disturbed the timed runs, for the workloads that were disturbed beyond the bounds above.

    What is unknown is not held against a measurement. The share of the CPU counts for an engine that
    computes on it.

    Args:
        result: all engine processes as one.
    """
    on_cpu = result.threads is not None
    reasons = {load.workload: _list_reasons(load, on_cpu) for load in result.workloads}
    return {workload: "; ".join(told) for workload, told in reasons.items() if told}


def _list_reasons(load: WorkloadResult, on_cpu: bool) -> list[str]:
    latencies, reasons = load.latency_seconds.values, []
    if load.neighbours:
        reasons += _list_neighbours(load.neighbours, latencies, on_cpu)
    if (spread := compute_spread(latencies)) > MAX_SPREAD:
        reasons.append(f"its timed runs spread by {spread:.0%} of their median")
    return reasons


def _list_neighbours(beside: Neighbours, latencies: list[float], on_cpu: bool) -> list[str]:
    reasons, seconds = [], sum(latencies)
    if on_cpu and beside.other_cpu_share and seconds > 0:
        share = sum(map(operator.mul, beside.other_cpu_share, latencies)) / seconds
        if share > MAX_CPU_SHARE + 2 * CLOCK_TICK / seconds:
            reasons.append(f"other processes took {share:.0%} of the CPU time")
    if beside.other_gpu_processes and (others := max(beside.other_gpu_processes)) > MAX_GPU_PROCESSES:
        reasons.append(f"other processes on the GPU: {others}")
    if (clocks := beside.sm_clock_mhz) and min(clocks) < MIN_CLOCK * max(clocks):
        reasons.append(f"the GPU's clock fell from {max(clocks):,} to {min(clocks):,} MHz")
    return reasons


def compute_spread(latencies: list[float]) -> float:
    """The distance between the 10th and the 90th percentile over the median; 0 of a single run.

    Percentiles are interpolated linearly between neighbours, as everywhere in a measurement.
    """
    import numpy as np

    low, median, high = np.percentile(latencies, [10, 50, 90]).tolist()
    return float((high - low) / median) if median > 0 else 0.0
