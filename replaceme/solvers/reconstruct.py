"""Refit at the gap, then every kept layer after it, toward the original model's states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from replaceme.solvers.base import LayerSize, Problem, Solution, Solver
from replaceme.solvers.linear import solve_ridge
from replaceme.solvers.projection import correct_projection
from replaceme.solvers.refit import Refit, check_projections

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.architectures import Architecture
    from replaceme.calibration import Batch, Batches
    from replaceme.decoder import Call, Decoder
    from replaceme.selection import Block
    from replaceme.statistics import Needs

Weights = dict[tuple[int, str], "Tensor"]


class Reconstruct(Solver):
    """``refit``, then the kept layers after the gap, one after the other, in closed form.

    For each of them, with the pruned model's own activations A (input of the attention's output
    projection) and H (input of the MLP's), toward the original model's states at the same two points:
    ``min_V Σ wᵢ‖Aᵢ V + sᵢ − tᵢ‖² + λ‖V − W‖²``, where s is the pruned model's residual stream, t the
    original's, wᵢ = 1/(‖sᵢ‖ ‖tᵢ‖); then the same for H with the attention already corrected. Where
    attention and MLP are parallel both are solved at once toward the layer's output. The layer before a
    further gap aims at the state behind that gap. Both streams advance layer by layer, so that only
    their current states are held.
    """

    name: ClassVar[str] = "reconstruct"
    summary: ClassVar[str] = "refit, then all output projections after the gap, closed form"
    rank: ClassVar[int] = 5
    passes: ClassVar[float] = 2.6

    ridge: float = Field(1.0, gt=0, description="pull toward the old weights after the gap, as in refit")
    cut_ridge: float = Field(0.05, gt=0, description="the same at the gap")
    tokens: int = Field(65536, gt=0, description="calibration tokens used at most")

    @property
    def needs(self) -> Needs:
        return self._refit.needs

    @property
    def _refit(self) -> Refit:
        return Refit(ridge=self.cut_ridge)

    def edit_bytes(self, size: LayerSize, gaps: int, layers: int) -> int:  # noqa: ARG002
        return layers * size.outputs

    def check(self, architecture: Architecture) -> None:
        check_projections(self.name, architecture)

    def solve(self, problem: Problem) -> Solution:
        from replaceme.edit import Edit

        at_gap, notes = self._refit.solve(replace(problem, blocks=problem.blocks[:1]))
        walk = _Walk(problem.decoder, problem.blocks, dict(at_gap.weights), self.ridge)
        walk.start(problem.batches.evenly(self.tokens))
        while walk.advance():
            problem.report(walk.layer / len(problem.decoder.layers))
        tokens = sum(int(batch.lengths.sum()) for batch in walk.batches)
        return Solution(Edit(problem.blocks, weights=walk.weights), notes | {"tokens": tokens})


@dataclass
class _Stream:
    """The states of one batch in both models, after the same layer."""

    batch: Batch
    calls: list[Call]
    original: Tensor
    pruned: Tensor
    target: Tensor | None = None


class _Walk:
    """Both models side by side, and the weights found so far."""

    def __init__(
        self, decoder: Decoder, blocks: tuple[Block, ...], weights: Weights, ridge: float
    ) -> None:
        self.decoder, self.blocks, self.weights, self.ridge = decoder, blocks, weights, ridge
        self.ends = {block.start - 1: block.end for block in blocks}
        self.layer = 0
        self.streams: list[_Stream] = []

    @property
    def batches(self) -> list[Batch]:
        return [stream.batch for stream in self.streams]

    def start(self, batches: Batches) -> None:
        """Bring both streams behind the first gap; the pruned one has its weights already."""
        gap = self.blocks[0]
        for batch in batches:
            states, calls = self.decoder.enter(batch)
            for layer in range(gap.start - 1):
                states = self.decoder.step(layer, states, calls[layer])
            with self._put_weights(gap.start - 1):
                pruned = self.decoder.step(gap.start - 1, states, calls[gap.start - 1])
            original = self._original(states, calls, gap.start - 1, gap.end)
            self.streams.append(_Stream(batch, calls, original, pruned))
        self.layer = gap.end

    def _original(self, states: Tensor, calls: list[Call], start: int, end: int) -> Tensor:
        for layer in range(start, end):
            states = self.decoder.step(layer, states, calls[layer])
        return states

    def advance(self) -> bool:
        """Solve the next kept layer, and move both streams behind it; false at the end."""
        layer = self.layer
        if layer == len(self.decoder.layers):
            return False
        following = self.ends.get(layer, layer + 1)
        kind = self.decoder.kind(layer)
        if kind.mixer and not kind.parallel:
            self._solve_mixer(layer, kind.mixer)
        for stream in self.streams:
            stream.target = self._original(stream.original, stream.calls, layer, following)
        self._solve_output(layer)
        for stream in self.streams:
            with self._put_weights(layer):
                stream.pruned = self.decoder.step(layer, stream.pruned, stream.calls[layer])
            assert stream.target is not None
            stream.original, stream.target = stream.target, None
        self.layer = following
        return True

    @contextmanager
    def _put_weights(self, layer: int) -> Iterator[None]:
        """The layer with the pruned model's weights."""
        from replaceme.edit import Edit, edit_temporarily

        own = {key: values for key, values in self.weights.items() if key[0] == layer}
        with edit_temporarily(self.decoder.model, self.decoder.architecture, Edit(weights=own)):
            yield

    def _solve_mixer(self, layer: int, path: str) -> None:
        totals = _Totals()
        for stream in self.streams:
            _, original = self._mix(layer, stream.original, stream)
            inputs, pruned = self._mix(layer, stream.pruned, stream)
            totals.add(self._rows(stream, layer, [(path, inputs)]), stream.batch, pruned, original)
        self._solve(layer, [path], totals)

    def _mix(self, layer: int, states: Tensor, stream: _Stream) -> tuple[Tensor, Tensor]:
        """Input of the projection that ends what mixes tokens, and the residual stream behind it."""
        inputs, output = self.decoder.mix(layer, states, stream.calls[layer])
        factor = self.decoder.kind(layer).mixer_factor
        return inputs, states.to(output.device).float() + factor * output.float()

    def _solve_output(self, layer: int) -> None:
        """The MLP's output projection, and the attention's with it where they are parallel."""
        from replaceme.decoder import capture

        kind = self.decoder.kind(layer)
        paths = [kind.mixer] if kind.mixer and kind.parallel else []
        paths.append(self.decoder.projection(layer))
        reads = {path: self.decoder.input_of(layer, path) for path in paths}

        totals = _Totals()
        for stream in self.streams:
            with ExitStack() as stack:
                stack.enter_context(self._put_weights(layer))
                seen = stack.enter_context(capture(reads))
                pruned = self.decoder.step(layer, stream.pruned, stream.calls[layer])
            rows = self._rows(stream, layer, [(path, seen[path]) for path in paths])
            assert stream.target is not None
            totals.add(rows, stream.batch, pruned, stream.target)
        self._solve(layer, paths, totals)

    def _rows(self, stream: _Stream, layer: int, inputs: list[tuple[str, Tensor]]) -> Tensor:
        """Features [real tokens, k] of projections side by side, float32."""
        import torch

        from replaceme.statistics import features_of, real_tokens

        parts = [
            features_of(self.decoder, layer, path, real_tokens(states, stream.batch)).float()
            for path, states in inputs
        ]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _solve(self, layer: int, paths: list[str], totals: _Totals) -> None:
        assert totals.gram is not None
        assert totals.cross is not None
        correction, _ = solve_ridge(totals.gram, totals.cross, self.ridge)
        sizes = [self.decoder.feature_count(layer, path) for path in paths]
        for path, part in zip(paths, correction.split(sizes), strict=True):
            self.weights |= correct_projection(self.decoder, layer, path, part)


class _Totals:
    """Weighted moments toward a target, summed over batches in float64."""

    gram: Tensor | None = None
    cross: Tensor | None = None

    def add(self, rows: Tensor, batch: Batch, states: Tensor, target: Tensor) -> None:
        """Add a batch: features [tokens, k] that are to move ``states`` to ``target``."""
        from replaceme.statistics import real_tokens, row_scale

        before = real_tokens(states, batch).float()
        goal = real_tokens(target.to(states.device), batch).float()
        scale, change = row_scale("geometric", before, goal), goal - before
        rows, change = rows.to(states.device) * scale, change * scale
        gram, cross = (rows.mT @ rows).double(), (rows.mT @ change).double()
        self.gram = gram if self.gram is None else self.gram.add_(gram)
        self.cross = cross if self.cross is None else self.cross.add_(cross)
