"""Least squares of the relative error."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from replaceme.solvers.lstsq import Lstsq

if TYPE_CHECKING:
    from replaceme.statistics import Rows


class Relative(Lstsq):
    """``min_T Σ wᵢ‖Mᵢ T + Yᵢ − Lᵢ‖² + λ‖T − I‖²`` with wᵢ = 1/‖Lᵢ‖², in closed form.

    As ``lstsq``, but a token counts by how far it is from its target relative to the target's length,
    so that a few tokens with massive activations do not own the fit.
    """

    name: ClassVar[str] = "relative"
    summary: ClassVar[str] = "least squares of the relative error, closed form"
    rank: ClassVar[int] = 3
    rows: ClassVar[Rows] = "relative"
