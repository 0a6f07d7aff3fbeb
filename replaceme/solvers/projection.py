"""Corrections of whole output projections, for the solvers that go beyond a transform."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.decoder import Decoder


def correct_projection(
    decoder: Decoder, layer: int, path: str, correction: Tensor
) -> dict[tuple[int, str], Tensor]:
    """Weight and bias of a projection after ``V = W + C``.

    Args:
        path: the projection's name within the layer.
        correction: C [k, d] float64 with inputs as rows; where the projection has a bias, the last of
            its rows corrects it.

    Returns:
        (layer, tensor) → values in the tensors' own layout and dtype, rounded once.
    """
    changed = {}
    for name, parameter in decoder.parameters(layer, path).items():
        if parameter.dim() == 1:
            part = correction[-1]
        else:
            inputs = len(correction) - decoder.has_bias(layer, path)
            part = correction[:inputs]
            part = part if decoder.is_input_major(layer, path) else part.mT
        exact = parameter.data.double() + part.to(parameter.device)
        changed[layer, name] = exact.to(parameter.dtype)
    return changed
