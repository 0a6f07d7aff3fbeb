"""The linear systems behind the closed-form solvers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

RANK_CUTOFF = 1e-12  # eigenvalues of the Gram matrix below this share of the largest count as zero
POWER_STEPS = 24
PANEL = 512  # columns that are factorised at once


def solve_psd(matrix: Tensor, rhs: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Solve ``matrix @ x = rhs`` for a symmetric positive semi-definite matrix.

    By Cholesky; a numerically singular matrix gets the minimum-norm solution over the eigenvectors
    whose eigenvalue exceeds ``RANK_CUTOFF`` times the largest. Where ``matrix`` is not finite, neither
    is the result.

    Args:
        matrix: [n, n] float64; its factor is in its place while this runs.
        rhs: [n, k] float64.

    Returns:
        [n, k] float64, and ``rank`` and ``condition`` (largest / smallest eigenvalue kept; by power
        iteration where the matrix is regular).
    """
    import torch

    if not bool(matrix.isfinite().all()):
        return torch.full_like(rhs, torch.nan), {"rank": None, "condition": None}
    largest = _iterate(lambda vector: matrix @ vector, matrix)
    with _factorised(matrix) as factor:
        if factor is not None:
            condition = largest * _iterate(lambda vector: _solve(factor, vector), matrix)
            if condition < 1 / RANK_CUTOFF:
                return _solve(factor, rhs), {"rank": len(matrix), "condition": condition}
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > RANK_CUTOFF * values[-1]
    rank = int(kept.sum())
    notes = {"rank": rank, "condition": float(values[-1] / values[kept][0]) if rank else None}
    kept_vectors = vectors[:, kept]
    return kept_vectors @ ((kept_vectors.mT @ rhs) / values[kept, None]), notes


@contextmanager
def _factorised(matrix: Tensor) -> Iterator[Tensor | None]:
    """L of ``matrix = L Lᵀ`` in its own lower triangle for as long as the context lasts, so that nothing
    of its size is made; ``None``: it is not positive definite.

    What is above the diagonal does not count; the matrix is put back from there.
    """
    panels = [slice(start, start + PANEL) for start in range(0, len(matrix), PANEL)]
    corners = [matrix[panel, panel].clone() for panel in panels]
    try:
        yield matrix if _factorise(matrix, panels) else None
    finally:
        for panel, corner in zip(panels, corners, strict=True):
            matrix[panel, panel] = corner
            matrix[panel.stop :, panel] = matrix[panel, panel.stop :].mT


def _factorise(matrix: Tensor, panels: list[slice]) -> bool:
    """Put L into the lower triangle, a panel of columns after the other; false where there is none."""
    import torch

    for i, panel in enumerate(panels):
        corner, failed = torch.linalg.cholesky_ex(matrix[panel, panel])
        if failed:
            return False
        matrix[panel, panel] = corner
        below = matrix[panel.stop :, panel]
        below.copy_(torch.linalg.solve_triangular(corner, below.mT, upper=False).mT)
        for other in panels[i + 1 :]:
            rows, columns = matrix[other.start :, panel], matrix[other, panel]
            matrix[other.start :, other].addmm_(rows, columns.mT, alpha=-1)
    return True


def _solve(factor: Tensor, rhs: Tensor) -> Tensor:
    """``L Lᵀ x = rhs``; ``torch.cholesky_solve`` would copy L."""
    import torch

    half = torch.linalg.solve_triangular(factor, rhs, upper=False)
    found: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return found


def _iterate(apply: Callable[[Tensor], Tensor], matrix: Tensor) -> float:
    """The largest eigenvalue of what ``apply`` multiplies with, a function of the matrix."""
    import torch

    start = torch.randn(len(matrix), 1, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    vector, length = start.to(matrix.device), torch.ones(())
    for _ in range(POWER_STEPS):
        vector = apply(vector)
        length = vector.norm()
        vector = vector / length
    return float(length)


def solve_ridge(gram: Tensor, cross: Tensor, ridge: float) -> tuple[Tensor, dict[str, Any]]:
    """``min_C Σ w‖X C − D‖² + λ‖C‖²`` with λ = ``ridge`` times the median of the Gram diagonal.

    Args:
        gram: [k, k] float64, Σ w XᵀX; with λ on its diagonal, and factorised, while this runs.
        cross: [k, d] float64, Σ w XᵀD.
    """
    with _penalised(gram, ridge):
        return solve_psd(gram, cross)


def find_correction(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """:func:`solve_ridge` without what is worth recording, which takes as long as the solution.

    No eigenvalue is below λ, and none above the largest sum of a row: where these tell that the matrix
    is regular, its condition is not looked for.
    """
    with _penalised(gram, ridge) as penalty:
        if bool(penalty > RANK_CUTOFF * _largest_sum(gram)):
            with _factorised(gram) as factor:
                if factor is not None:
                    return _solve(factor, cross)
        return solve_psd(gram, cross)[0]


def _largest_sum(matrix: Tensor) -> float:
    """Of the absolute values of a row."""
    return max(float(rows.abs().sum(dim=1).max()) for rows in matrix.split(PANEL))


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
