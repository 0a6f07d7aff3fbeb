"""How far predictions are from the intact model's: the Kullback-Leibler divergence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replaceme.facts import Divergence


class Reference:
    """Next-token distributions of the intact model.

    Log-probabilities are float32 whatever the dtype of the logits: nothing but the logits is rounded.
    """

    def __init__(self, logits: Tensor) -> None:
        """``logits``: [positions, vocabulary]."""
        self._logs = log_probabilities(logits)
        self._probabilities = self._logs.exp()

    def diverge(self, logs: Tensor) -> Tensor:
        """KL(intact ‖ other) = Σ p₀ (log p₀ − log p) of each position in nats, [positions] float32.

        A sum of differences, not a difference of sums, which would lose digits; what rounding takes
        below 0 is 0.

        Args:
            logs: the other's log-probabilities, see :func:`log_probabilities`.
        """
        return (self._logs - logs).mul_(self._probabilities).sum(-1).clamp_min_(0)


def log_probabilities(logits: Tensor) -> Tensor:
    """[positions, vocabulary] float32 of logits of any dtype."""
    return logits.log_softmax(-1, dtype=torch.float32)


def summarize(divergences: Sequence[NDArray[np.float32]]) -> Divergence | None:
    """Mean and 99th percentile over all positions of some pieces; ``None`` where there is none."""
    values = np.concatenate([np.zeros(0, np.float32), *divergences]).astype(np.float64)
    if not values.size:
        return None
    p99 = float(np.quantile(values, 0.99))  # interpolated linearly
    return Divergence(mean=float(values.mean()), p99=p99, positions=values.size)
