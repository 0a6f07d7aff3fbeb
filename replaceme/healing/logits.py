"""Logits in the precision that healing runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_half(model: PreTrainedModel) -> bool:
    """Whether a model is in half precision, and its student run under autocast therefore."""
    return model.dtype in (torch.bfloat16, torch.float16)


def mixed(model: PreTrainedModel) -> AbstractContextManager[None]:
    """The forward of its student in bfloat16 where a model is in half precision; what is trained is
    float32 all the same."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=is_half(model))


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in float32, or in a wider dtype."""
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
