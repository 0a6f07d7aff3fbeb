"""What solves for the matrices that end a branch, by what is behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replaceme.solvers.experts import ExpertsFit
from replaceme.solvers.normed import NormedFit
from replaceme.solvers.projection import LinearFit

if TYPE_CHECKING:
    from replaceme.decoder import Decoder

MatrixFit = LinearFit | NormedFit | ExpertsFit


def choose_fit(decoder: Decoder, layer: int, paths: list[str], ridge: float) -> MatrixFit:
    """For the projections ``paths`` of a layer, side by side, or for its experts.

    Args:
        paths: names within the layer; the last is what a norm may follow, or the experts' entry.
    """
    kind, last = decoder.kind(layer), paths[-1]
    if kind.experts and last == kind.entry:
        return ExpertsFit(decoder, layer, ridge)
    if last in kind.norms:
        return NormedFit(decoder, layer, last, ridge)
    return LinearFit(decoder, layer, paths, ridge)
