"""One checkpoint after the other, through lm-eval's own model class."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from bench.scoring.fork import Answer
from bench.scoring.tasks import PreparedTask, TaskScore
from bench.scoring.trees import Request

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM


class CheckpointScorer:
    """What ``lm_eval --model hf`` makes of a checkpoint."""

    def __init__(
        self, folder: Path, *, dtype: str, device: str, batch_size: int, trust_remote_code: bool = False
    ) -> None:
        from lm_eval.models.huggingface import HFLM

        self.lm = HFLM(
            pretrained=str(folder),
            dtype=dtype,
            device=None if device == "auto" else device,
            parallelize=device == "auto",
            batch_size=batch_size,
            trust_remote_code=trust_remote_code,
        )

    @property
    def batch_size(self) -> int:
        return int(self.lm.batch_size)

    def score(self, task: PreparedTask) -> TaskScore:
        return task.score(self.lm)

    def answers(self, requests: list[Request], batch_size: int) -> list[Answer]:
        return answers_of(self.lm, requests, batch_size)


def answers_of(lm: HFLM, requests: list[Request], batch_size: int) -> list[Answer]:
    """What lm-eval's own forward answers to requests."""
    own, lm.batch_size_per_gpu = lm.batch_size_per_gpu, batch_size
    rows = [(None, *request.split) for request in requests]
    try:
        return [Answer(*answer) for answer in lm._loglikelihood_tokens(rows, disable_tqdm=True)]
    finally:
        lm.batch_size_per_gpu = own


def free_memory() -> None:
    """Give back what models used that nothing refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
