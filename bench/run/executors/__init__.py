"""Where the work of a run is done: in this process, or in others.

A stage makes jobs of what is to be computed, gives them to the executor of the run, and records what
comes back. It does not know where they ran.
"""

from __future__ import annotations

from pathlib import Path

from bench.run.executors.job import Executor, Held, Job, Outcome, balance, cut
from bench.run.executors.local import Local
from bench.suite.executor import ExecutorSpec

__all__ = ["Executor", "Held", "Job", "Local", "Outcome", "balance", "cut", "make_executor"]


def make_executor(spec: ExecutorSpec, out: Path, device: str | None = None) -> Executor:
    """The executor that a suite names, ready to work.

    Args:
        out: the folder of the results.
        device: of torch, that the suite names.

    Raises:
        InputError: it cannot be had.
    """
    if spec.name == "local":
        return Local()
    from bench.run.executors.ray import Ray

    return Ray(spec, out, device)
