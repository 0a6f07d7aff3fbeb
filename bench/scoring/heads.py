"""What last states say: answers to requests, and how far the predictions are from the intact model's."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.scoring.trees import TreeBatch
from replaceme.decoder import Decoder
from replaceme.divergence import Reference, log_probabilities
from replaceme.hooks import other_values
from replaceme.logits import tokens_at_once

Outside = Mapping[str, list[tuple[nn.Parameter, Tensor]]]


class Answer(NamedTuple):
    """What lm-eval wants to know of a request, and what the answer says of the variant.

    Attributes:
        loglikelihood: Σ log p of the targets in nats.
        greedy: whether each of them is the likeliest token.
        divergences: KL(intact ‖ variant) in nats where each target is predicted, float32; ``None``:
            not known.
    """

    loglikelihood: float
    greedy: bool
    divergences: array[float] | None = None


def read_answers(
    decoder: Decoder,
    batch: TreeBatch,
    intact: Tensor,
    ends: Mapping[str, Tensor],
    outside: Outside,
) -> dict[str, list[Answer]]:
    """Variant → its answers to the requests of a batch.

    Args:
        intact: last states of the nodes that predict something, of the intact model, [heads, d].
        ends: variant → its own.
        outside: variant → parameters behind the layers that are others in it.
    """
    readings = {name: Reading(batch, end) for name, end in ends.items()}
    same = [name for name, end in ends.items() if torch.equal(end, intact) and name not in outside]
    size = tokens_at_once(decoder.model)
    for start in range(0, len(intact), size):
        rows = slice(start, start + size)
        logits = _predict(decoder, intact[rows], [])
        reference = Reference(logits)
        for name, end in ends.items():
            changes = outside.get(name, [])
            own = logits if name in same else _predict(decoder, end[rows], changes)
            readings[name].add(start, own, reference)
    return {name: reading.answers() for name, reading in readings.items()}


def _predict(decoder: Decoder, states: Tensor, changes: list[tuple[nn.Parameter, Tensor]]) -> Tensor:
    """[heads, vocabulary] of last states [heads, d], with other values behind the layers."""
    with other_values((parameter, values.to(parameter.dtype)) for parameter, values in changes):
        return decoder.logits(states[:, None])[:, 0]


class Reading:
    """What one variant predicts for a batch, gathered from some heads after the other.

    Rounded as lm-eval rounds: the log-probabilities and their sum are of the dtype of the logits.
    """

    def __init__(self, batch: TreeBatch, heads: Tensor) -> None:
        self._batch = batch
        self._which = batch.heads[1].to(heads.device)
        self._targets = batch.targets.to(heads.device)
        count = len(self._targets)
        self._logs = torch.empty(count, dtype=heads.dtype, device=heads.device)
        self._likeliest = torch.empty(count, dtype=torch.bool, device=heads.device)
        self._divergences = torch.empty(count, dtype=torch.float32, device=heads.device)

    def add(self, start: int, logits: Tensor, reference: Reference) -> None:
        """Read logits [heads, vocabulary] of the heads from ``start`` on."""
        here = (self._which >= start) & (self._which < start + len(logits))
        table = logits.log_softmax(-1)
        exact = table if table.dtype == torch.float32 else log_probabilities(logits)
        rows, goals = self._which[here] - start, self._targets[here]
        self._logs[here] = table[rows, goals]
        self._likeliest[here] = _likeliest(table, rows, goals)
        self._divergences[here] = reference.diverge(exact)[rows]

    def answers(self) -> list[Answer]:
        """To the requests of the batch, in their order."""
        owners, requests = self._batch.owners, self._batch.requests
        sums = torch.zeros(len(requests), dtype=torch.float64)
        missed = torch.zeros_like(sums).index_add_(0, owners, (~self._likeliest).cpu().double())
        sums.index_add_(0, owners, self._logs.cpu().double())
        counts = [len(request.targets) for request in requests]
        parts = self._divergences.cpu().split(counts)
        return [
            Answer(total, wrong == 0, array("f", part.numpy().tobytes()))
            for total, wrong, part in zip(
                sums.to(self._logs.dtype).tolist(), missed.tolist(), parts, strict=True
            )
        ]


def _likeliest(table: Tensor, rows: Tensor, goals: Tensor) -> Tensor:
    """Whether the goal is the argmax of its row.

    Of equal entries the first is; in half precision, where rounding makes many equal, that is looked up.
    """
    found = table[rows, goals] == table.amax(-1)[rows]
    if table.dtype != torch.float32:
        (at,) = found.nonzero(as_tuple=True)
        found[at] = table[rows[at]].argmax(-1) == goals[at]
    return found
