"""How well a model, intact or pruned, predicts tokens that nothing was fitted on."""

from __future__ import annotations

from functools import cached_property

import torch

from replaceme.calibration import Batch, Batches
from replaceme.decoder import Decoder
from replaceme.edit import Edit, edit_temporarily


class HeldBack:
    """Loss of the variants of one model on held-back tokens."""

    def __init__(self, decoder: Decoder, batches: Batches) -> None:
        self.decoder, self.batches = decoder, batches

    @cached_property
    def intact(self) -> float | None:
        """Loss of the intact model."""
        return self.loss(Edit())

    def loss(self, edit: Edit) -> float | None:
        """Mean negative log-likelihood in nats per predicted token; ``None`` where there is none."""
        predicted = self.batches.tokens - len(self.batches.sequences)
        if predicted < 1:
            return None
        with edit_temporarily(self.decoder.model, self.decoder.architecture, edit) as kept:
            total = sum(self._batch(batch, kept) for batch in self.batches)
        return total / predicted

    def _batch(self, batch: Batch, kept: list[int]) -> float:
        states, calls = self.decoder.enter(batch)
        for layer in kept:
            states = self.decoder.step(layer, states, calls[layer])
        total = 0.0
        for row, length in enumerate(batch.lengths.tolist()):
            ids = batch.ids[row, :length]
            logits = self.decoder.logits(states[row : row + 1, :length])
            total += negative_log_likelihood(logits[0, :-1], ids[1:])
        return total


def negative_log_likelihood(logits: torch.Tensor, ids: torch.Tensor) -> float:
    goal = ids.to(logits.device)
    return float(torch.nn.functional.cross_entropy(logits.float(), goal, reduction="sum"))
