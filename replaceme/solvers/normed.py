"""A projection whose output passes a norm, refitted together with the norm's gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from replaceme.hooks import other_values
from replaceme.solvers.linear import find_correction
from replaceme.solvers.projection import Weights, read_projection, write_projection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from replaceme.architectures import Norm
    from replaceme.calibration import Batch
    from replaceme.decoder import Decoder

ROUNDS = 4


class _Rows(NamedTuple):
    """What is kept of a batch.

    Attributes:
        inputs: [tokens, k], H in the model's dtype.
        wanted: [tokens, d] float32, y.
        weight: [tokens, 1] float32, w.
    """

    inputs: Tensor
    wanted: Tensor
    weight: Tensor


@dataclass
class NormedFit:
    """``min_{V, γ} Σ wᵢ‖yᵢ − f γ⊙n(Hᵢ V)‖²`` toward the old V and γ, where y is what is to be added, f
    the factor, and n(u) = u/rms(u).

    γ and V in turn. γ is found entry by entry. For V the norm's scale ρᵢ = 1/rms(Hᵢ V) is held fixed,
    and of the error eᵢ, seen from before the norm, that part is left out which the norm undoes: with
    Pᵢ = 1 − nᵢnᵢᵀ/d the next V is a ridge regression of ``nᵢ + Pᵢ(γ⊙eᵢ)/(f c)`` on ρᵢHᵢ, c the mean of
    γ². Where V stays the same the gradient is zero.

    What is added has about the same length at every token, so that no attention sink is made again that
    a removed layer made.
    """

    decoder: Decoder
    layer: int
    path: str
    ridge: float
    rows: list[_Rows] = field(default_factory=list)

    def add(self, batch: Batch, inputs: Mapping[str, Tensor], state: Tensor, goal: Tensor) -> None:
        """Add a batch, as in :class:`replaceme.solvers.projection.LinearFit`."""
        from replaceme.statistics import real_tokens, row_scale, with_ones

        before = real_tokens(state, batch).float()
        after = real_tokens(goal.to(state.device), batch).float()
        rows = with_ones(self.decoder, self.layer, self.path, real_tokens(inputs[self.path], batch))
        rows = rows.to(before.device)
        unit, _ = self._directions(rows, self._matrix)
        wanted = after - before + self._factor * self._gain.float() * unit
        weight = row_scale("geometric", before, after).square()
        self.rows.append(_Rows(rows, wanted, weight))

    def solve(self) -> Weights:
        matrix, gain = self._matrix, self._solve_gain(self._matrix)
        for _ in range(ROUNDS):
            matrix = self._solve_matrix(matrix, gain)
            gain = self._solve_gain(matrix)
        weights = write_projection(self.decoder, self.layer, self.path, matrix)
        values = (gain - self._norm.offset).to(self._norm_weight.data)
        return weights | {(self.layer, f"{self._norm.path}.weight"): values}

    def _solve_gain(self, matrix: Tensor) -> Tensor:
        """γ [d] float64 for a V."""
        size = self._gain.shape
        energy, cross = self._gain.new_zeros(size), self._gain.new_zeros(size)
        for rows in self.rows:
            unit, _ = self._directions(rows.inputs, matrix)
            unit = self._factor * unit
            error = rows.wanted - self._gain.float() * unit
            energy += (rows.weight * unit.square()).sum(0)
            cross += (rows.weight * unit * error).sum(0)
        return self._gain + cross / (energy + self.ridge * energy.median())

    def _solve_matrix(self, matrix: Tensor, gain: Tensor) -> Tensor:
        """The next V [k, d] float64, for a γ."""
        from replaceme.gram import add_gram

        gram, cross = matrix.new_zeros(len(matrix), len(matrix)), matrix.new_zeros(matrix.shape)
        for rows in self.rows:
            unit, scale = self._directions(rows.inputs, matrix)
            error = rows.wanted - self._factor * gain.float() * unit
            pull = gain.float() * error
            pull -= unit * (unit * pull).mean(-1, keepdim=True)
            root = rows.weight.sqrt()
            scaled = scale * root * rows.inputs
            add_gram(gram, scaled)
            cross += scaled.mT @ (root * pull)
        cross = cross / (self._factor * gain.square().mean()) + gram @ (matrix - self._matrix)
        return self._matrix + find_correction(gram, cross, self.ridge)

    def _directions(self, rows: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """n(H V) [tokens, d], which the norm returns with a gain of one, and ρ [tokens, 1], float32."""
        import torch

        states = rows.float() @ matrix.float()
        norm = self.decoder.layer(self.layer).get_submodule(self._norm.path)
        ones = torch.full_like(self._norm_weight.data, 1 - self._norm.offset)
        with torch.no_grad(), other_values([(self._norm_weight, ones)]):
            unit: Tensor = norm(states)
        length = states.norm(dim=-1, keepdim=True).clamp_min(1e-20)
        return unit, unit.norm(dim=-1, keepdim=True) / length

    @property
    def _factor(self) -> float:
        return self.decoder.kind(self.layer).factor_of(self.path)

    @property
    def _norm(self) -> Norm:
        return self.decoder.kind(self.layer).norms[self.path]

    @property
    def _norm_weight(self) -> nn.Parameter:
        return self.decoder.layer(self.layer).get_parameter(f"{self._norm.path}.weight")

    @cached_property
    def _matrix(self) -> Tensor:
        return read_projection(self.decoder, self.layer, self.path)

    @cached_property
    def _gain(self) -> Tensor:
        return self._norm_weight.data.double() + self._norm.offset
