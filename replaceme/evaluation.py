"""How well a model, intact or pruned, predicts tokens that nothing was fitted on."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from replaceme.calibration import Batch, Batches
from replaceme.decoder import Decoder, Read
from replaceme.divergence import Reference, log_probabilities, summarize
from replaceme.edit import Edit
from replaceme.facts import Divergence
from replaceme.logits import tokens_at_once
from replaceme.selection import Block
from replaceme.traversal import walk


class Judgement(NamedTuple):
    """How a variant predicts the held-back tokens.

    Attributes:
        loss: mean negative log-likelihood in nats per predicted token.
        divergence: from the intact model at every position.
    """

    loss: float
    divergence: Divergence | None


class Ends(NamedTuple):
    """A sequence and a model's last states of it: [tokens] int64, and [tokens, d]."""

    ids: Tensor
    states: Tensor


class HeldBack:
    """How variants of one model predict held-back tokens."""

    def __init__(self, decoder: Decoder, batches: Batches) -> None:
        self.decoder, self.batches = decoder, batches
        self._removal: dict[tuple[Block, ...], Judgement | None] = {}

    @cached_property
    def intact(self) -> float | None:
        """Loss of the intact model."""
        return self._loss(self._intact_ends)

    @cached_property
    def _intact_ends(self) -> list[Ends]:
        return self._run(Edit())

    def loss(self, edit: Edit) -> float | None:
        """Mean negative log-likelihood in nats per predicted token; ``None`` where there is none."""
        return self._loss(self._run(edit))

    def judge(self, edit: Edit) -> Judgement | None:
        """Loss, and divergence from the intact model; ``None`` where no token is predicted."""
        if self._predicted < 1:
            return None
        total, divergences = 0.0, []
        for (ids, states), intact in zip(self._run(edit), self._intact_ends, strict=True):
            for here in self._parts(ids):
                logs = log_probabilities(self._logits(states[here]))
                total += _surprise(logs, ids, here)
                reference = Reference(self._logits(intact.states[here]))
                divergences.append(reference.diverge(logs).cpu().numpy())
        return Judgement(total / self._predicted, summarize(divergences))

    def judge_removal(self, blocks: tuple[Block, ...]) -> Judgement | None:
        """The same of plain removal, computed once."""
        if blocks not in self._removal:
            self._removal[blocks] = self.judge(Edit(blocks))
        return self._removal[blocks]

    @property
    def _predicted(self) -> int:
        return self.batches.tokens - len(self.batches.sequences)

    def _run(self, edit: Edit) -> list[Ends]:
        """The sequences with the last states of an edited model; logits would be many more numbers."""
        last = _Last(self.decoder, edit.kept(len(self.decoder.layers))[-1])
        walk(self.decoder, self.batches, last, edit=edit)
        return last.ends

    def _loss(self, ends: list[Ends]) -> float | None:
        if self._predicted < 1:
            return None
        parts = (
            _surprise(log_probabilities(self._logits(states[here])), ids, here)
            for ids, states in ends
            for here in self._parts(ids)
        )
        return sum(parts) / self._predicted

    def _logits(self, states: Tensor) -> Tensor:
        """[positions, vocabulary] of last states [positions, d]."""
        return self.decoder.logits(states[None])[0]

    def _parts(self, ids: Tensor) -> list[slice]:
        """A few positions after the other."""
        size = tokens_at_once(self.decoder.model)
        return [slice(start, start + size) for start in range(0, len(ids), size)]


class _Last:
    """Keeps the states behind a layer."""

    def __init__(self, decoder: Decoder, layer: int) -> None:
        self.layer = layer
        self.read = Read((decoder.layers[layer],))
        self.ends: list[Ends] = []

    def reads(self, layer: int) -> dict[Any, Read]:
        return {"state": self.read} if layer == self.layer else {}

    def see(self, layer: int, number: int, batch: Batch, seen: dict[Any, Tensor]) -> None:  # noqa: ARG002
        if layer == self.layer:
            rows = zip(batch.ids, seen["state"], batch.lengths.tolist(), strict=True)
            self.ends += [Ends(ids[:size], states[:size]) for ids, states, size in rows]


def _surprise(logs: Tensor, ids: Tensor, here: slice) -> float:
    """Negative log-likelihood in nats of the tokens that follow some positions of a sequence.

    Args:
        logs: log-probabilities at these positions, [positions, vocabulary].
    """
    goals = ids[here.start + 1 : here.stop + 1]
    return negative_log_likelihood(logs[: len(goals)], goals)


def negative_log_likelihood(logs: Tensor, ids: Tensor) -> float:
    """Of some tokens, in nats, from the log-probabilities that predict them, [tokens, vocabulary]."""
    return -float(logs.gather(1, ids.to(logs.device)[:, None]).sum())
