"""Least squares in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from replaceme.solvers.base import Solution, Solver

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.statistics import Moments

RANK_CUTOFF = 1e-12  # eigenvalues of the Gram matrix below this share of the largest count as zero


class Lstsq(Solver):
    """``min_T ‖M T + Y − L‖² + λ‖T − I‖² + α‖T‖²`` (ReplaceMe, arXiv 2505.02819, eq. 5).

    Solved for the correction C = T − I, whose right-hand side needs no difference of large totals:
    ``(MᵀM + (λ + α) I) C = Mᵀ(L − L_in) − α I``, where L_in = M + Y enters the block.
    """

    name: ClassVar[str] = "lstsq"
    summary: ClassVar[str] = "least squares on the hidden states, closed form"

    ridge: float = Field(
        0.0,
        ge=0,
        description="pull toward the identity: λ in units of the median of diag(MᵀM)",
    )
    alpha: float = Field(
        0.0, ge=0, description="the reference's regularisation: absolute, pulls toward zero"
    )

    def solve(self, moments: Moments, seed: int = 42) -> Solution:  # noqa: ARG002
        import torch

        gram, cross = moments.gram, moments.cross
        identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        penalty = self.ridge * float(gram.diagonal().median()) + self.alpha
        correction, notes = solve_psd(gram + penalty * identity, cross - self.alpha * identity)
        return Solution(identity + correction, notes)


def solve_psd(matrix: Tensor, rhs: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Solve ``matrix @ x = rhs`` for a symmetric positive semi-definite matrix.

    By Cholesky; a numerically singular matrix gets the minimum-norm solution over the eigenvectors
    whose eigenvalue exceeds ``RANK_CUTOFF`` times the largest. Where ``matrix`` is not finite, neither
    is the result.

    Args:
        matrix: [n, n] float64.
        rhs: [n, k] float64.

    Returns:
        [n, k] float64, and ``rank`` and ``condition`` (largest / smallest eigenvalue kept).
    """
    import torch

    if not bool(matrix.isfinite().all()):
        return torch.full_like(rhs, torch.nan), {"rank": None, "condition": None}
    values = torch.linalg.eigvalsh(matrix)
    kept = values > RANK_CUTOFF * values[-1]
    rank = int(kept.sum())
    notes = {"rank": rank, "condition": float(values[-1] / values[kept][0]) if rank else None}
    if rank == len(matrix):
        return torch.cholesky_solve(rhs, torch.linalg.cholesky(matrix)), notes
    values, vectors = torch.linalg.eigh(matrix)
    kept_vectors = vectors[:, kept]
    return kept_vectors @ ((kept_vectors.mT @ rhs) / values[kept, None]), notes
