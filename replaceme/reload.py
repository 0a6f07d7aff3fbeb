"""A written checkpoint loaded again, as its user will: it must predict what the model in memory did.

What differs then is what no file shows: code that acts by the number of a layer, or that reads a file
which was not carried over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import isfinite, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from replaceme.architectures import architecture_of
from replaceme.calibration import Batches
from replaceme.decoder import Decoder
from replaceme.divergence import log_probabilities
from replaceme.edit import Edit
from replaceme.errors import InputError
from replaceme.evaluation import HeldBack, negative_log_likelihood
from replaceme.io import loading, models
from replaceme.io.saved import SavedLayers
from replaceme.memory import load_within

if TYPE_CHECKING:
    from replaceme.calibrating import Calibration
    from replaceme.fitting import Fit

TOKENS = 1024  # where nothing was held back
LEAST_TOLERANCE = 5e-4  # nats per token, which float32 stays far below in any order of summing
EPSILONS = 8  # by which the loss of a token may differ where it is computed in another order


@dataclass(frozen=True)
class Expected:
    """What a checkpoint is to predict.

    Attributes:
        loss: nats per token of ``sequences``; ``None`` if unknown.
        dtype: that it was computed in.
        cast: the dtype that weights are cast to which were not when it was computed.
    """

    loss: float | None
    sequences: list[list[int]]
    dtype: torch.dtype
    cast: str | None = None

    @classmethod
    def of(cls, calibration: Calibration, found: Fit, saved: SavedLayers) -> Expected:
        """The loss of a fit, its weights as they are saved, on its held-back tokens, or on some that it
        was fitted on."""
        model, edit, held = calibration.decoder.model, found.edit, calibration.held_back
        if found.loss is None:
            held = HeldBack(calibration.decoder, calibration.batches.evenly(TOKENS))
        loss = found.loss[1] if found.loss and saved.keeps_values(model, edit) else None
        if loss is None:
            loss = held.loss(saved.with_values(model, edit))
        return cls(loss, held.batches.sequences, model.dtype, saved.other_cast)

    @property
    def tolerance(self) -> float:
        """How far a sound checkpoint's loss may be from this one.

        Rounding differs from token to token, so that its mean over n of them shrinks with √n; that of a
        cast is the same at every token.
        """
        tokens = max(1, sum(len(row) - 1 for row in self.sequences))
        order = EPSILONS * torch.finfo(self.dtype).eps / sqrt(tokens)
        cast = EPSILONS * torch.finfo(getattr(torch, self.cast)).eps if self.cast else 0.0
        return LEAST_TOLERANCE + order + cast

    @classmethod
    def of_random_tokens(
        cls, source: Path, edit: Edit, dtype: str | None, trust_remote_code: bool = False
    ) -> Expected:
        """The loss of an edited model, which is loaded for it, on tokens drawn at random.

        Args:
            dtype: that the checkpoint is cast to; ``None``: it is not.
        """
        model, _ = loading.load(source, None, "cpu", trust_remote_code)
        draw = torch.Generator().manual_seed(0)
        sequences = torch.randint(model.config.vocab_size, (4, 128), generator=draw).tolist()
        decoder = Decoder.of(model)
        alike = Batches(sequences, len(sequences), lengths=decoder.lengths)
        saved = SavedLayers.of(source, decoder.architecture, dtype)
        loss = HeldBack(decoder, alike).loss(saved.with_values(model, edit))
        return cls(loss, sequences, model.dtype, saved.other_cast)


def compare_reloaded(
    folder: Path,
    expected: Expected,
    device: str = "cpu",
    trust_remote_code: bool = False,
    memory: int | None = None,
) -> float | None:
    """Load a checkpoint and compare its loss with what is expected of it.

    Args:
        memory: bytes of the device that may be taken; a larger model is read layer by layer.

    Returns:
        Its loss, nats per token; ``None`` where none is known to compare with.

    Raises:
        InputError: it cannot be loaded, or the losses disagree by more than rounding explains.
    """
    dtype = str(expected.dtype).removeprefix("torch.")
    if memory is None:
        model, _ = loading.load(folder, dtype, device, trust_remote_code)
        compute_loss = partial(_loss, model)
    else:
        decoder = _load_within(folder, dtype, device, trust_remote_code, memory)
        compute_loss = partial(_loss_layer_by_layer, decoder)
    if expected.loss is None or not isfinite(expected.loss):
        return None
    found = compute_loss(expected.sequences)
    if abs(found - expected.loss) > expected.tolerance:
        raise InputError(
            f"the checkpoint does not do what the pruned model did: loaded again, its loss is "
            f"{found:.4f} nats per token, and it was {expected.loss:.4f} before it was written; the "
            f"model's code acts by the numbers of its layers, or needs a file that is not carried over."
        )
    return found


def _load_within(folder: Path, dtype: str, device: str, trust_remote_code: bool, memory: int) -> Decoder:
    said = models.read_config(folder)
    architecture = architecture_of(said, f"model {folder}", folder, trust_remote_code)
    model, _, room = load_within(folder, architecture, dtype, device, trust_remote_code, memory)
    return Decoder(model, architecture, room=room)


def _loss_layer_by_layer(decoder: Decoder, sequences: list[list[int]]) -> float:
    found = HeldBack(decoder, Batches(sequences, batch_size=1)).loss(Edit())
    assert found is not None  # as is what is expected
    return found


@torch.no_grad()
def _loss(model: torch.nn.Module, sequences: list[list[int]]) -> float:
    device = next(model.parameters()).device
    total = 0.0
    for row in sequences:
        ids = torch.tensor(row, device=device)
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        total += negative_log_likelihood(log_probabilities(logits[:-1]), ids[1:])
    return total / sum(len(row) - 1 for row in sequences)
