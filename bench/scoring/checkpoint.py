"""One checkpoint after the other, through lm-eval's own model class."""

from __future__ import annotations

import gc
from pathlib import Path

from bench.scoring.tasks import PreparedTask, TaskScore


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

    def score(self, task: PreparedTask) -> TaskScore:
        return task.score(self.lm)


def free_memory() -> None:
    """Give back what models used that nothing refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
