"""The output matrices of experts, each refitted on the tokens that it gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from replaceme.hooks import other_values
from replaceme.solvers.projection import Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from replaceme.architectures import Axis
    from replaceme.calibration import Batch
    from replaceme.decoder import Decoder

SWEEPS = 4
TOKENS_AT_ONCE = 4096


class _Rows(NamedTuple):
    """What is kept of a batch.

    Attributes:
        states: [tokens, d], what enters the experts, in the model's dtype.
        change: [tokens, d] float32, √w D.
        scale: [tokens, 1] float32, √w.
    """

    states: Tensor
    change: Tensor
    scale: Tensor


class _Matrix(NamedTuple):
    """A matrix that M is linear in: a parameter, or the part of it that is one expert's. Biases are
    matrices too: their inputs are the gates."""

    name: str
    expert: int | None
    axis: Axis

    def of(self, values: Mapping[str, Tensor]) -> Tensor:
        """It [k, d] with inputs as rows, in the memory of the parameter's values."""
        own = values[self.name] if self.expert is None else values[self.name][self.expert]
        return own[None] if own.ndim == 1 else own.mT if self.axis == -2 else own


@dataclass
class _Part:
    """One matrix with the tokens that it gets.

    Attributes:
        tokens: [n] int64, their numbers.
        inputs: [n, k], what it is multiplied with, times its gate.
        correction: [k, d] float32, C.
    """

    matrix: _Matrix
    tokens: Tensor
    inputs: Tensor
    correction: Tensor


@dataclass
class ExpertsFit:
    """``min_C Σᵢ wᵢ‖Σₑ gᵢₑHᵢₑ Cₑ − Dᵢ‖² + λ Σₑ‖Cₑ‖²`` for the corrections C = V − W of all experts
    and shared experts, where g is what the gate gives an expert for a token; routers stay.

    H and g are read off the layer itself, whose output is linear in the W: with an identity in the
    place of one of them and zeros in that of the others it returns ``gᵢₑHᵢₑ``. Solved expert by expert
    on what the others have left, :data:`SWEEPS` times (block Gauss-Seidel). λ is the same for all, in
    units of the median of diag(XᵀwX) over all of them, so that an expert with few tokens stays nearly
    as it is. Where XᵀwX + λ is not positive after rounding, C is not finite.
    """

    decoder: Decoder
    layer: int
    ridge: float
    rows: list[_Rows] = field(default_factory=list)

    def add(self, batch: Batch, inputs: Mapping[str, Tensor], state: Tensor, goal: Tensor) -> None:
        """Add a batch, as in :class:`replaceme.solvers.projection.LinearFit`."""
        from replaceme.statistics import real_tokens, row_scale

        before = real_tokens(state, batch).float()
        after = real_tokens(goal.to(state.device), batch).float()
        scale = row_scale("geometric", before, after)
        states = real_tokens(inputs[self.decoder.entry(self.layer)], batch)
        self.rows.append(_Rows(states, (after - before) * scale, scale))

    def solve(self) -> Weights:
        import torch

        rows = _Rows(*map(torch.cat, zip(*self.rows, strict=True)))
        with torch.no_grad():
            parts = list(self._read(rows))
        energy = torch.cat([self._scaled(part, rows).square().sum(0) for part in parts])
        self._descend(parts, rows, self.ridge * energy[energy > 0].median())
        return self._corrected(parts)

    def _descend(self, parts: list[_Part], rows: _Rows, penalty: Tensor) -> None:
        import torch

        left = rows.change.clone()
        factors = [_factor(self._scaled(part, rows), penalty) for part in parts]
        for _ in range(SWEEPS):
            for part, factor in zip(parts, factors, strict=True):
                inputs = self._scaled(part, rows)
                pull = inputs.mT @ left[part.tokens] - penalty * part.correction
                step = torch.cholesky_solve(pull, factor)
                part.correction += step
                left[part.tokens] -= inputs @ step

    def _scaled(self, part: _Part, rows: _Rows) -> Tensor:
        """√w X [n, k] float32 of a matrix."""
        scale = rows.scale[part.tokens]
        return part.inputs.float() * (self.decoder.kind(self.layer).factor * scale)

    def _corrected(self, parts: list[_Part]) -> Weights:
        names = dict.fromkeys(part.matrix.name for part in parts)
        values = {name: self._parameters[name].data.clone() for name in names}
        for part in parts:
            own = part.matrix.of(values)
            own.copy_(own.double() + part.correction)
        return {(self.layer, name): tensor for name, tensor in values.items()}

    @cached_property
    def _parameters(self) -> dict[str, nn.Parameter]:
        """Those that M is linear in."""
        own = dict(self.decoder.layer(self.layer).named_parameters())
        return {matrix.name: own[matrix.name] for matrix in self._matrices}

    @cached_property
    def _matrices(self) -> list[_Matrix]:
        found: list[_Matrix] = []
        for name, parameter in self.decoder.layers[self.layer].named_parameters():
            if (axis := self.decoder.kind(self.layer).merge_axis(name)) is not None:
                experts = [*range(len(parameter))] if parameter.ndim == 3 else [None]
                found += [_Matrix(name, expert, axis) for expert in experts]
        return found

    def _read(self, rows: _Rows) -> Iterator[_Part]:
        """The matrices that get tokens."""
        with self._no_outputs() as values:
            routes = self._routes(values, rows.states)
            for matrix, tokens in zip(self._matrices, routes, strict=True):
                if len(tokens):
                    own = matrix.of(values)
                    inputs = self._inputs(own, rows.states[tokens])
                    yield _Part(matrix, tokens, inputs, rows.change.new_zeros(own.shape))

    @contextmanager
    def _no_outputs(self) -> Iterator[dict[str, Tensor]]:
        """Zeros in the place of all that M is linear in, for as long as the context lasts."""
        import torch

        values = {name: torch.zeros_like(own.data) for name, own in self._parameters.items()}
        with other_values((own, values[name]) for name, own in self._parameters.items()):
            yield values

    def _routes(self, values: dict[str, Tensor], states: Tensor) -> list[Tensor]:
        """For each matrix the numbers of the tokens that it gets: each fills a column of its own."""
        found: list[Tensor] = []
        width = states.shape[-1]
        for start in range(0, len(self._matrices), width):
            some = self._matrices[start : start + width]
            for column, matrix in enumerate(some):
                matrix.of(values)[:, column] = 1
            seen = self._run(states) != 0
            found += [seen[:, column].nonzero().squeeze(1) for column in range(len(some))]
            for matrix in some:
                matrix.of(values).zero_()
        return found

    def _inputs(self, matrix: Tensor, states: Tensor) -> Tensor:
        """What a matrix [k, d] is multiplied with, [tokens, k]; it is zero, and again afterwards."""
        import torch

        count, width = matrix.shape
        parts = []
        for start in range(0, count, width):
            size = min(width, count - start)
            matrix[start : start + size, :size].fill_diagonal_(1)
            parts.append(self._run(states)[:, :size].clone())
            matrix.zero_()
        return torch.cat(parts, dim=1)

    def _run(self, states: Tensor) -> Tensor:
        import torch

        return torch.cat([self.decoder.run_experts(self.layer, s) for s in states.split(TOKENS_AT_ONCE)])


def _factor(inputs: Tensor, penalty: Tensor) -> Tensor:
    """The Cholesky factor [k, k] of XᵀX + λ, found in float64 and kept in float32: the sweeps correct
    what that rounds."""
    import torch

    from replaceme.gram import compute_gram

    gram = compute_gram(inputs)
    gram.diagonal().add_(penalty)
    found = torch.linalg.cholesky_ex(gram)
    factor: Tensor = found.L.float()
    return factor.masked_fill_(found.info > 0, torch.nan)
