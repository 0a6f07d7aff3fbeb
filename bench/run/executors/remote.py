"""What runs in the processes that Ray starts. A worker is the same as in this process."""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.run.executors.job import Held, Job, Outcome
from bench.run.executors.worker import Worker
from bench.run.host.environment import Machine
from bench.serving import ServingError, engine_version
from replaceme.errors import InputError, OutputError, told

PACKAGES = ("replaceme", "torch", "transformers", "lm-eval", "ray")
PAUSE = 0.5  # seconds between two shares that a job tells


class RemoteWorker:
    """Does jobs in a process of its own, and keeps what is held until something else is wanted."""

    def __init__(self, log: Path, threads: int) -> None:
        """Start.

        Args:
            log: the file that takes what libraries print.
            threads: to compute with.
        """
        import torch

        self.error: str | None = None
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for stream in (1, 2):
                os.dup2(descriptor, stream)
        except OSError as error:
            self.error = error.strerror
        torch.set_num_threads(threads)
        self._worker = Worker()
        self._number: int | None = None
        self._held: Held | None = None

    def describe(self, mark: Path, device: str) -> dict[str, Any]:
        """Where it is, and Ray's name of that; its machine and versions, whether it sees a file, and why
        it cannot write its log.

        Args:
            device: of torch, that it computes on.
        """
        import ray

        return {
            "place": platform.node(),
            "node": str(ray.get_runtime_context().get_node_id()),
            "machine": Machine.here(device),
            "versions": list_versions(),
            "sees": mark.exists(),
            "error": self.error,
        }

    def run(
        self, job: Job, number: int | None, held: list[Any], shares: Any, key: int
    ) -> Iterator[Outcome]:
        """The outcomes of a job.

        Args:
            number: of what it needs to hold; ``None``: nothing.
            held: the reference to that.
            shares: the actor that is told how far the job is.
            key: of the job there.
        """
        import ray

        if number is None:
            self._held = None
        elif number != self._number:
            self._held = ray.get(held[0])
        self._number = number
        told_at = 0.0

        def tell(share: float) -> None:
            nonlocal told_at
            if time.monotonic() - told_at > PAUSE:
                told_at = time.monotonic()
                shares.tell.remote(key, share)

        for outcome in self._worker.run(replace(job, held=self._held), tell):
            yield _portable(outcome)

    def let_go(self) -> None:
        """Hold nothing any more."""
        self._number = self._held = None
        self._worker.let_go()


class Shares:
    """An actor that keeps how far jobs are."""

    def __init__(self) -> None:
        self._told: dict[int, float] = {}

    def tell(self, key: int, share: float) -> None:
        self._told[key] = share

    def read(self) -> dict[int, float]:
        """What was told since this was asked last."""
        told, self._told = self._told, {}
        return told


def list_versions() -> dict[str, str]:
    """What numbers depend on; vLLM where it is installed."""
    found = {"Python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    engine = engine_version()
    return found | ({"vLLM": engine} if engine else {})


def _portable(outcome: Outcome) -> Outcome:
    """An outcome that another process can read, with the place of an error as text."""
    if outcome.error is None:
        return outcome
    trace = "".join(traceback.format_exception(outcome.error))
    if isinstance(outcome.error, InputError | OutputError | ServingError | OSError):
        return Outcome(error=outcome.error, trace=trace)
    return Outcome(error=RuntimeError(told(outcome.error)), trace=trace)
