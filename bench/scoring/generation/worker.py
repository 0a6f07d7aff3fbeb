"""What a process does that has an engine write; see :mod:`bench.serving.forkserver`.

What comes of it is appended to the job's file of texts: each text, ``{"variant", "loaded", "seconds"}``
for each variant, and ``{"variant", "asked", "error"}`` or ``{"variant", "refused"}`` where it could not.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench.scoring.generation.job import Asked, Job, Variant, read_requests
from bench.scoring.generation.texts import write_entry


def import_engine() -> None:
    """Import what takes long, before workers are forked."""
    import bench.scoring.generation.engine  # noqa: F401


def main(job_file: Path) -> None:
    """Answer what a job asks for."""
    job = Job.model_validate_json(job_file.read_bytes())
    Answering(job).execute()


class Answering:
    """A running engine, and the checkpoint that it has the weights of."""

    def __init__(self, job: Job) -> None:
        """Start the engine on the first checkpoint."""
        from bench.scoring.generation.engine import EngineLM

        self.job, self.first = job, job.variants[0]
        start = time.perf_counter()
        self.lm = EngineLM.start(self.first.folder, job)
        self.folder = self.first.folder
        self._note(self.first, loaded="engine", seconds=time.perf_counter() - start)
        self.random_state = self.lm.call("random_state")

    def execute(self) -> None:
        """Answer for each variant; ends early where the engine refuses the weights of one, or has had
        NaN in its cache, which would reach the variants behind."""
        for variant in self.job.variants:
            try:
                self._put_in(variant)
            except Exception as error:  # of whatever kind: another engine can still do it
                self._note(variant, refused=f"{type(error).__name__}: {error}")
                return
            for place, asked in enumerate(variant.asked):
                if not self._answer(variant, asked):
                    for left in variant.asked[place:]:
                        self._note(variant, asked=left.requests, nan=True)
                    return

    def _put_in(self, variant: Variant) -> None:
        if variant is self.first:
            return
        start = time.perf_counter()
        tensors = self.lm.swap(self.folder, variant.folder)
        self.folder = variant.folder
        self._note(variant, loaded="swap", tensors=tensors, seconds=time.perf_counter() - start)

    def _answer(self, variant: Variant, asked: Asked) -> bool:
        """Answer what a task asks; returns whether that was possible in numbers."""
        requests = [*read_requests(asked.file)]
        if asked.sampled:
            self.lm.call("restore_random_state", self.random_state)
        start = time.perf_counter()

        def keep(index: int, text: Any) -> None:
            self._note(variant, asked=asked.requests, index=index, text=text)

        try:
            truncated = self.lm.write({i: requests[i] for i in asked.lacking}, keep)
        except ArithmeticError:
            return False
        except (TypeError, ValueError) as error:  # of vLLM and lm-eval, about what is asked
            self._note(variant, asked=asked.requests, error=str(error))
            return True
        seconds = time.perf_counter() - start
        self._note(variant, asked=asked.requests, answered=seconds, truncated=truncated)
        return True

    def _note(self, variant: Variant, **entry: Any) -> None:
        write_entry(self.job.texts, variant=variant.stem, **entry)
