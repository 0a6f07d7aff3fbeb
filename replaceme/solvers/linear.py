"""The linear systems behind the closed-form solvers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

RANK_CUTOFF = 1e-12  # eigenvalues of the Gram matrix below this share of the largest count as zero
POWER_STEPS = 24


def solve_psd(matrix: Tensor, rhs: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Solve ``matrix @ x = rhs`` for a symmetric positive semi-definite matrix.

    By Cholesky; a numerically singular matrix gets the minimum-norm solution over the eigenvectors
    whose eigenvalue exceeds ``RANK_CUTOFF`` times the largest. Where ``matrix`` is not finite, neither
    is the result.

    Args:
        matrix: [n, n] float64.
        rhs: [n, k] float64.

    Returns:
        [n, k] float64, and ``rank`` and ``condition`` (largest / smallest eigenvalue kept; by power
        iteration where the matrix is regular).
    """
    import torch

    if not bool(matrix.isfinite().all()):
        return torch.full_like(rhs, torch.nan), {"rank": None, "condition": None}
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed:
        condition = _condition(matrix, factor)
        if condition < 1 / RANK_CUTOFF:
            return _solve(factor, rhs), {"rank": len(matrix), "condition": condition}
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > RANK_CUTOFF * values[-1]
    rank = int(kept.sum())
    notes = {"rank": rank, "condition": float(values[-1] / values[kept][0]) if rank else None}
    kept_vectors = vectors[:, kept]
    return kept_vectors @ ((kept_vectors.mT @ rhs) / values[kept, None]), notes


def _solve(factor: Tensor, rhs: Tensor) -> Tensor:
    """``L Lᵀ x = rhs``; ``torch.cholesky_solve`` would copy L."""
    import torch

    half = torch.linalg.solve_triangular(factor, rhs, upper=False)
    found: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return found


def _condition(matrix: Tensor, factor: Tensor) -> float:
    """λ_max / λ_min, each by power iteration: with the matrix, and with its inverse."""
    import torch

    start = torch.randn(len(matrix), 1, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    largest = smallest = start.to(matrix.device)
    top = inverse = torch.ones(())
    for _ in range(POWER_STEPS):
        largest = matrix @ largest
        top = largest.norm()
        largest = largest / top
        smallest = _solve(factor, smallest)
        inverse = smallest.norm()
        smallest = smallest / inverse
    return float(top * inverse)


def solve_ridge(gram: Tensor, cross: Tensor, ridge: float) -> tuple[Tensor, dict[str, Any]]:
    """``min_C Σ w‖X C − D‖² + λ‖C‖²`` with λ = ``ridge`` times the median of the Gram diagonal.

    Args:
        gram: [k, k] float64, Σ w XᵀX; λ is on its diagonal while this runs.
        cross: [k, d] float64, Σ w XᵀD.
    """
    with _penalised(gram, ridge):
        return solve_psd(gram, cross)


def find_correction(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """:func:`solve_ridge` without what is worth recording, which takes as long as the solution.

    No eigenvalue is below λ, and none above the largest sum of a row: where these tell that the matrix
    is regular, its condition is not looked for.
    """
    import torch

    with _penalised(gram, ridge) as penalty:
        if bool(penalty > RANK_CUTOFF * torch.linalg.matrix_norm(gram, torch.inf)):
            factor, failed = torch.linalg.cholesky_ex(gram)
            if not failed:
                return _solve(factor, cross)
        return solve_psd(gram, cross)[0]


@contextmanager
def _penalised(gram: Tensor, ridge: float) -> Iterator[Tensor]:
    """λ on the diagonal for as long as the context lasts, which spares a copy of the matrix."""
    own = gram.diagonal().clone()
    penalty: Tensor = ridge * own.median()
    gram.diagonal().add_(penalty)
    try:
        yield penalty
    finally:
        gram.diagonal().copy_(own)
