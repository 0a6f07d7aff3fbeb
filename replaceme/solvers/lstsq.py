"""Least squares in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from replaceme.solvers.base import TransformSolver
from replaceme.solvers.linear import solve_psd

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.statistics import BlockStatistics, Needs, Rows


class Lstsq(TransformSolver):
    """``min_T ‖M T + Y − L‖² + λ‖T − I‖² + α‖T‖²`` (ReplaceMe, arXiv 2505.02819, eq. 5).

    Solved for the correction C = T − I, whose right-hand side needs no difference of large totals:
    ``(MᵀM + (λ + α) I) C = Mᵀ(L − L_in) − α I``, where L_in = M + Y enters the block. With ``diagonal``
    each entry of a diagonal T is fitted by itself.
    """

    name: ClassVar[str] = "lstsq"
    summary: ClassVar[str] = "least squares on the hidden states, closed form"
    rank: ClassVar[int] = 1
    rows: ClassVar[Rows] = "equal"

    ridge: float = Field(
        0.0,
        ge=0,
        description="pull toward the identity: λ in units of the median of diag(MᵀM)",
    )
    alpha: float = Field(
        0.0, ge=0, description="the reference's regularisation: absolute, pulls toward zero"
    )
    diagonal: bool = Field(False, description="a diagonal transform")

    @property
    def is_diagonal(self) -> bool:
        return self.diagonal

    @property
    def needs(self) -> Needs:
        from replaceme.statistics import Kind, Needs

        return Needs(frozenset({Kind(rows=self.rows)}))

    def transform(
        self,
        statistics: BlockStatistics,
        seed: int = 42,  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Any]]:
        import torch

        from replaceme.statistics import Kind

        moments = statistics.moments[Kind(rows=self.rows)]
        gram, cross = moments.gram, moments.cross
        identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        penalty = self.ridge * float(gram.diagonal().median()) + self.alpha
        if self.diagonal:
            energy = gram.diagonal() + penalty
            wanted = cross.diagonal() - self.alpha
            correction = torch.where(energy > 0, wanted / energy, torch.zeros_like(energy))
            return identity + correction.diag(), {"rank": int((energy > 0).sum())}
        correction, notes = solve_psd(gram + penalty * identity, cross - self.alpha * identity)
        return identity + correction, notes
