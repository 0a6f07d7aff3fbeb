"""A solver applied to the moments of a block, and how good the fit is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from replaceme.solvers import Solver
from replaceme.statistics import Moments

DIAGNOSED_TOKENS = 4096


@dataclass(frozen=True)
class Fit:
    """A transform with its diagnostics.

    Attributes:
        transform: [d, d] float64, or ``None`` for the identity.
        relative_error: (before, after): √(Σ‖prediction − L_out‖² / Σ‖L_out‖²) over all tokens, with
            the identity and with the transform.
        mean_cosine: (before, after): cos(prediction, L_out), mean over ``DIAGNOSED_TOKENS`` tokens.
        warning: why the transform should not be trusted, or ``None``.
        notes: the solver's own notes.
        seconds: time of the solve.
    """

    transform: Tensor | None
    relative_error: tuple[float, float]
    mean_cosine: tuple[float, float]
    warning: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def fit(solver: Solver, moments: Moments, seed: int = 42) -> Fit:
    """Run ``solver``. A result that is not finite is replaced by the identity, and says so."""
    start = time.perf_counter()
    transform, notes = solver.solve(moments, seed)
    seconds = time.perf_counter() - start
    warning = None
    if transform is not None and not bool(transform.isfinite().all()):
        transform, warning = None, "the solution was not finite; the identity was used instead"
    identity, fitted = _relative_error(None, moments), _relative_error(transform, moments)
    cosines = _mean_cosine(None, moments), _mean_cosine(transform, moments)
    if warning is None and (fitted > identity or cosines[1] < cosines[0]):
        measure = "mean cosine" if cosines[1] < cosines[0] else "relative error"
        warning = f"on its calibration tokens the fit's {measure} is worse than that of plain removal"
    return Fit(transform, (identity, fitted), cosines, warning, notes, seconds)


def _relative_error(transform: Tensor | None, moments: Moments) -> float:
    """From the moments: ‖M C − D‖² = tr(Cᵀ MᵀM C) − 2 tr(Cᵀ MᵀD) + ‖D‖² with C = T − I, D = L − L_in."""
    error = moments.change
    if transform is not None:
        correction = transform - torch.eye(len(transform), dtype=transform.dtype).to(transform)
        error += float((correction * (moments.gram @ correction - 2 * moments.cross)).sum())
    return (max(error, 0.0) / moments.energy) ** 0.5


def _mean_cosine(transform: Tensor | None, moments: Moments) -> float:
    sample = moments.sample.first(DIAGNOSED_TOKENS)
    mlp, before, after = (s.double() for s in (sample.mlp, sample.before, sample.after))
    predicted = before if transform is None else before + mlp @ transform.to(mlp) - mlp
    return float(cosine_similarity(predicted, after, dim=-1).mean())
