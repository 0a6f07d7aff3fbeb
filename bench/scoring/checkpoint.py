"""One checkpoint after the other, through lm-eval's own model class."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bench.scoring.generation.texts import Text
from bench.scoring.replies import Replies, Requests
from bench.scoring.tasks import PreparedTask, TaskScore
from bench.scoring.words import in_words
from replaceme.io.loading import refuse_unknown_tokens

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


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

    @cached_property
    def gives_numbers(self) -> bool:
        """Whether there is no NaN in the logits of a few tokens."""
        import torch

        model = self.lm.model
        ids = torch.arange(8, device=model.device)[None]
        with torch.no_grad():
            return not bool(model(input_ids=ids).logits.isnan().any())

    def dependence(self, instances: list[Instance]) -> str | None:
        """Why the requests of a task are to be answered one at a time, or ``None``."""
        from bench.scoring.beside import dependence

        return dependence(self.lm, instances) if int(self.lm.batch_size) > 1 else None

    def reply(self, asked: Requests, batch_size: int | None = None) -> Replies:
        """What the checkpoint replies, with the scorer's batch size or another."""
        import torch

        if asked.seed is not None:
            torch.manual_seed(asked.seed)
        torch.set_rng_state(asked.random_state)
        start = time.perf_counter()
        batches = self.lm.batches_of(batch_size or int(self.lm.batch_size))
        with in_words(), batches, self.lm.having_written(None):
            by_kind = {kind: getattr(self.lm, kind)(requests) for kind, requests in asked.each_kind()}
        return Replies(by_kind, self.lm.generated, time.perf_counter() - start)

    def score(
        self, task: PreparedTask, batch_size: int | None = None, texts: list[Text] | None = None
    ) -> TaskScore:
        """A task's score, with the scorer's batch size or another.

        Args:
            texts: that the model wrote already; ``None``: it writes what is asked for.
        """
        from bench.scoring.answering import score_replies

        replies = self.reply(task.ask(texts is not None), batch_size)
        return score_replies(self.lm, task, replies, texts)
