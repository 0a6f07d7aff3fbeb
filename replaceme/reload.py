"""A written checkpoint loaded again, as its user will: it must predict what the model in memory did.

What differs then is what no file shows: code that acts by the number of a layer, or that reads a file
which was not carried over.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from replaceme import loading
from replaceme.calibration import Batches
from replaceme.decoder import Decoder
from replaceme.errors import InputError
from replaceme.evaluation import HeldBack, negative_log_likelihood

if TYPE_CHECKING:
    from replaceme.fitting import Fit
    from replaceme.pruning import Calibration
    from replaceme.surgery import Edit

TOKENS = 1024  # where nothing was held back
LEAST_TOLERANCE = 5e-4  # nats per token, which float32 stays far below in any order of summing
EPSILONS = 4  # of the coarser dtype


@dataclass(frozen=True)
class Expected:
    """What a checkpoint is to predict: ``loss`` nats per token of ``sequences``, ``None`` if unknown."""

    loss: float | None
    sequences: list[list[int]]
    dtype: torch.dtype

    @classmethod
    def of(cls, calibration: Calibration, found: Fit) -> Expected:
        """The loss of a fit on its held-back tokens, or on some that it was fitted on."""
        decoder, held = calibration.decoder, calibration.held_back
        if found.loss is not None:
            return cls(found.loss[1], held.batches.sequences, decoder.model.dtype)
        some = calibration.batches.evenly(TOKENS)
        return cls(HeldBack(decoder, some).loss(found.edit), some.sequences, decoder.model.dtype)

    @classmethod
    def of_random_tokens(cls, source: Path, edit: Edit, trust_remote_code: bool = False) -> Expected:
        """The loss of an edited model, which is loaded for it, on tokens drawn at random."""
        model, _ = loading.load(source, None, "cpu", trust_remote_code)
        draw = torch.Generator().manual_seed(0)
        sequences = torch.randint(model.config.vocab_size, (4, 128), generator=draw).tolist()
        decoder = Decoder.of(model)
        alike = Batches(sequences, len(sequences), lengths=decoder.lengths)
        loss = HeldBack(decoder, alike).loss(edit)
        return cls(loss, sequences, model.dtype)


def reloaded_loss(
    folder: Path, expected: Expected, device: str = "cpu", trust_remote_code: bool = False
) -> float | None:
    """Load a checkpoint and compare its loss with what is expected of it.

    Returns:
        Its loss, nats per token; ``None`` where none is known to compare with.

    Raises:
        InputError: it cannot be loaded, or the losses disagree by more than rounding explains.
    """
    dtype = str(expected.dtype).removeprefix("torch.")
    model, _ = loading.load(folder, dtype, device, trust_remote_code)
    if expected.loss is None or not isfinite(expected.loss):
        return None
    found = _loss(model, expected.sequences)
    saved = loading.checkpoint_dtype(folder)
    if abs(found - expected.loss) > _tolerance(dtype, saved):
        raise InputError(
            f"the checkpoint does not do what the pruned model did: loaded again, its loss is "
            f"{found:.4f} nats per token, and it was {expected.loss:.4f} before it was written; the "
            f"model's code acts by the numbers of its layers, or needs a file that is not carried over."
        )
    return found


@torch.no_grad()
def _loss(model: torch.nn.Module, sequences: list[list[int]]) -> float:
    device = next(model.parameters()).device
    total = 0.0
    for row in sequences:
        ids = torch.tensor(row, device=device)
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        total += negative_log_likelihood(logits[:-1], ids[1:])
    return total / sum(len(row) - 1 for row in sequences)


def _tolerance(*dtypes: str) -> float:
    return max(LEAST_TOLERANCE, *(EPSILONS * torch.finfo(getattr(torch, d)).eps for d in dtypes))
