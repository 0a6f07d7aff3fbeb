"""One checkpoint after the other, through lm-eval's own model class."""

from __future__ import annotations

from pathlib import Path

from bench.scoring.generation.texts import Text
from bench.scoring.tasks import PreparedTask, TaskScore
from replaceme.io.loading import refuse_unknown_tokens


class CheckpointScorer:
    """What ``lm_eval --model hf`` makes of a checkpoint."""

    def __init__(
        self, folder: Path, *, dtype: str, device: str, batch_size: int, trust_remote_code: bool = False
    ) -> None:
        from bench.scoring.answering import AnsweringLM

        self.lm = AnsweringLM(
            str(folder),
            dtype=dtype,
            device=None if device == "auto" else device,
            parallelize=device == "auto",
            batch_size=batch_size,
            trust_remote_code=trust_remote_code,
        )
        refuse_unknown_tokens(self.lm.model)

    def dependence(self, task: PreparedTask) -> str | None:
        """Why the requests of a task are to be answered one at a time, or ``None``."""
        from bench.scoring.beside import dependence

        return dependence(self.lm, task.instances) if int(self.lm.batch_size) > 1 else None

    def score(
        self, task: PreparedTask, batch_size: int | None = None, texts: list[Text] | None = None
    ) -> TaskScore:
        """A task's score, with the scorer's batch size or another.

        Args:
            texts: that the model wrote already; ``None``: it writes what is asked for.
        """
        batches = self.lm.batches_of(batch_size or int(self.lm.batch_size))
        with batches, self.lm.having_written(texts):
            return task.score(self.lm)
