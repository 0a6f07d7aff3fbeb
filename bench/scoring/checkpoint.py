"""One checkpoint after the other, through lm-eval's own model class."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM


def load(
    folder: Path, *, dtype: str, device: str, batch_size: int, trust_remote_code: bool = False
) -> HFLM:
    """What ``lm_eval --model hf`` makes of a checkpoint."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=str(folder),
        dtype=dtype,
        device=None if device == "auto" else device,
        parallelize=device == "auto",
        batch_size=batch_size,
        trust_remote_code=trust_remote_code,
    )


def free_memory() -> None:
    """Give back what models used that nothing refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
