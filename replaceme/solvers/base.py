"""What a solver is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.statistics import Moments


class Solution(NamedTuple):
    """What a solver found.

    Attributes:
        transform: [d, d] float64, T with hidden states as rows (x → x T), or ``None`` for the identity.
        notes: what is worth recording about the solve (rank, condition number, steps …).
    """

    transform: Tensor | None
    notes: dict[str, float | int | str | None]


class Solver(BaseModel, ABC):
    """A way to fit T in ``M_{start-1} T + Y_{start-1} ≈ L_{end-1}``; its fields are its parameters.

    ``version`` changes whenever the same parameters would give other numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    summary: ClassVar[str]
    version: ClassVar[int] = 1

    @property
    def sample_tokens(self) -> int:
        """Size of the token sample that the solver wants beside the moments."""
        return 0

    @abstractmethod
    def solve(self, moments: Moments, seed: int = 42) -> Solution:
        """Fit T; the same moments and seed give the same bytes."""
