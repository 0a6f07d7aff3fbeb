"""How many logits are held at once: there are as many as tokens times vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU_LOGITS, GPU_LOGITS = 2**23, 2**26
BYTES = 16  # of a logit that is held, of both models and what is made of them


def logits_held(device: str) -> int:
    """How many logits of each model are held at once."""
    return CPU_LOGITS if device == "cpu" else GPU_LOGITS


def logit_bytes(device: str) -> int:
    """Bytes that they take, with what is made of them."""
    return BYTES * logits_held(device)


def tokens_at_once(model: PreTrainedModel) -> int:
    """Tokens whose logits are held at once."""
    vocabulary: int = model.config.get_text_config().vocab_size
    return max(1, logits_held(model.device.type) // vocabulary)
