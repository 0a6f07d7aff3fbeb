"""Angular distances of all pairs of layers, in one pass over the calibration tokens."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from replaceme.decoder import Decoder, Read
from replaceme.report import Report, no_report
from replaceme.sums import Portion, Sum
from replaceme.traversal import walk

if TYPE_CHECKING:
    from replaceme.calibration import Batch, Batches
    from replaceme.room import Kept

Tokens = Literal["last", "all"]


def layer_distances(
    decoder: Decoder, batches: Batches, tokens: Tokens = "last", report: Report = no_report
) -> Tensor:
    """Angular distances between the outputs of all pairs of layers.

    Entry (i, j) is the mean of ``arccos(cos(L_i, L_j)) / π`` (UIDL, arXiv 2403.17887, eq. 7), so that
    ``Block(s, e)`` has the distance (s−1, e−1).

    Args:
        tokens: the mean is over the sequences at their last real token, or over all real tokens.

    Returns:
        [layers, layers] float64 on the CPU, symmetric, values in [0, 1].
    """
    return mean_distances(
        sum_distances(decoder, Portion.whole(batches), tokens, report), batches, tokens
    )


def sum_distances(
    decoder: Decoder, portion: Portion, tokens: Tokens = "last", report: Report = no_report
) -> Sum:
    """What :func:`layer_distances` are the mean of, over a portion of the tokens."""
    visitor = (_AtLast if tokens == "last" else _AtAll)(decoder, portion)
    walk(decoder, portion, visitor, report=report)
    return visitor.total


def mean_distances(total: Sum, batches: Batches, tokens: Tokens) -> Tensor:
    """The distances [layers, layers] of their sum over all batches, which is given away."""
    count = len(batches.sequences) if tokens == "last" else batches.tokens
    return total.total().read() / count


class _Angles(ABC):
    """Sums angles over tokens; those of a batch wait until it has passed all layers.

    Attributes:
        total: [layers, layers].
    """

    def __init__(self, decoder: Decoder, portion: Portion) -> None:
        self.decoder, self.portion, self.count = decoder, portion, len(decoder.layers)
        self.total = Sum()
        self._waiting: dict[int, list[Kept]] = defaultdict(list)

    def reads(self, layer: int) -> dict[Any, Read]:
        return {"state": self.decoder.output(layer)}

    def see(self, layer: int, number: int, batch: Batch, seen: dict[Any, Tensor]) -> None:
        chosen = self.choose(seen["state"], batch)
        self._waiting[number].append(self.decoder.room.put(chosen))
        if layer == self.count - 1:
            states = [kept.read() for kept in self._waiting.pop(number)]
            part, shape = self.portion.part_of(number), (self.count, self.count)
            total = self.total.of_part(part, shape, torch.device("cpu"))
            self.add(total, states, batch.lengths.tolist())

    @abstractmethod
    def choose(self, states: Tensor, batch: Batch) -> Tensor:
        """The tokens that count, [tokens, d], of states [sequences, tokens, d]."""

    @abstractmethod
    def add(self, total: Tensor, states: list[Tensor], lengths: list[int]) -> None:
        """Add the angles between those behind each layer, of sequences of some lengths."""


class _AtLast(_Angles):
    def choose(self, states: Tensor, batch: Batch) -> Tensor:
        return states[torch.arange(len(batch.lengths)), batch.lengths - 1].cpu().double()

    def add(self, total: Tensor, states: list[Tensor], lengths: list[int]) -> None:  # noqa: ARG002
        total += sum_angles(torch.stack(states, dim=1))


class _AtAll(_Angles):
    def choose(self, states: Tensor, batch: Batch) -> Tensor:
        return states[batch.mask.to(states.device)]

    def add(self, total: Tensor, states: list[Tensor], lengths: list[int]) -> None:
        device = states[0].device
        for rows in zip(*(layer.split(lengths) for layer in states), strict=True):
            alike = [row.float().to(device) for row in rows]
            total += sum_angles(torch.stack(alike, dim=1)).cpu()


def sum_angles(states: Tensor) -> Tensor:
    """Over tokens, of the angles over π between the states [tokens, layers, d] of one, float64."""
    states = nn.functional.normalize(states, dim=-1)
    cosines = (states @ states.mT).clamp(-1, 1)
    return (cosines.arccos() / math.pi).sum(0, dtype=torch.float64)
