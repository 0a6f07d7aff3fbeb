"""Whole output projections, for the solvers that go beyond a transform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replaceme.solvers.linear import find_correction

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.calibration import Batch
    from replaceme.decoder import Decoder

Weights = dict[tuple[int, str], "Tensor"]


def read_projection(decoder: Decoder, layer: int, path: str) -> Tensor:
    """W [k, d] float64 of a projection, with inputs as rows; where it has a bias, that is the last.

    Args:
        path: the projection's name within the layer.
    """
    import torch

    major = decoder.is_input_major(layer, path)
    return torch.cat(
        [
            values[None] if values.dim() == 1 else values if major else values.mT
            for parameter in decoder.parameters(layer, path).values()
            for values in [parameter.data.double()]
        ]
    )


def write_projection(decoder: Decoder, layer: int, path: str, matrix: Tensor) -> Weights:
    """Weight and bias of a projection by (layer, tensor), in their own layout, rounded once.

    Args:
        matrix: [k, d] float64, as :func:`read_projection` has it.
    """
    major = decoder.is_input_major(layer, path)
    inputs = len(matrix) - decoder.has_bias(layer, path)
    changed = {}
    for name, parameter in decoder.parameters(layer, path).items():
        values = matrix[-1] if parameter.dim() == 1 else matrix[:inputs] if major else matrix[:inputs].mT
        changed[layer, name] = values.to(parameter.data, copy=True).contiguous()
    return changed


def correct_projection(decoder: Decoder, layer: int, path: str, correction: Tensor) -> Weights:
    """Weight and bias of a projection after ``V = W + C``, with C [k, d] float64."""
    matrix = read_projection(decoder, layer, path)
    return write_projection(decoder, layer, path, matrix + correction.to(matrix))


@dataclass
class LinearFit:
    """``min_V Σ wᵢ‖Xᵢ (V − W) + sᵢ − tᵢ‖² + λ‖V − W‖²`` from states s to states t, wᵢ = 1/(‖sᵢ‖ ‖tᵢ‖),
    with the projections ``paths`` of a layer side by side."""

    decoder: Decoder
    layer: int
    paths: list[str]
    ridge: float
    gram: Tensor | None = None
    cross: Tensor | None = None

    def add(self, batch: Batch, inputs: Mapping[str, Tensor], state: Tensor, goal: Tensor) -> None:
        """Add a batch.

        Args:
            inputs: of each projection, [sequences, tokens, k].
            state: [sequences, tokens, d], with the weights as they are.
            goal: the same, as it is to be.
        """
        import torch

        from replaceme.gram import add_gram, compute_gram
        from replaceme.statistics import features_of, real_tokens, row_scale

        before = real_tokens(state, batch).float()
        after = real_tokens(goal.to(state.device), batch).float()
        scale = row_scale("geometric", before, after)
        parts = [
            features_of(self.decoder, self.layer, path, real_tokens(inputs[path], batch))
            for path in self.paths
        ]
        rows = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        rows, change = (rows.to(before.device) * scale).float(), (after - before) * scale
        product = rows.mT @ change
        self.gram = compute_gram(rows) if self.gram is None else add_gram(self.gram, rows)
        self.cross = product.double() if self.cross is None else self.cross.add_(product)

    def solve(self) -> Weights:
        assert self.gram is not None
        assert self.cross is not None
        correction = find_correction(self.gram, self.cross, self.ridge)
        sizes = [self.decoder.feature_count(self.layer, path) for path in self.paths]
        weights: Weights = {}
        for path, part in zip(self.paths, correction.split(sizes), strict=True):
            weights |= correct_projection(self.decoder, self.layer, path, part)
        return weights
