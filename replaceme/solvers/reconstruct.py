"""Refit at the gap, then every kept layer after it, toward the original model's states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from replaceme.solvers.base import LayerSize, Problem, Solution, Solver
from replaceme.solvers.fits import choose_fit
from replaceme.solvers.projection import Weights
from replaceme.solvers.refit import Refit, check_projections

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.architectures import Architecture
    from replaceme.calibration import Batch, Batches
    from replaceme.decoder import Call, Decoder
    from replaceme.room import Kept
    from replaceme.selection import Block
    from replaceme.statistics import Needs

KEPT_BYTES = 2**28  # of inputs of an MLP's projection, at most; where there are more the MLP runs again


class Reconstruct(Solver):
    """``refit``, then the kept layers after the gap, one after the other, in closed form.

    For each of them, with the pruned model's own activations A (input of the attention's output
    projection) and H (input of the MLP's), toward the original model's states at the same two points:
    ``min_V Σ wᵢ‖Aᵢ V + sᵢ − tᵢ‖² + λ‖V − W‖²``, where s is the pruned model's residual stream, t the
    original's, wᵢ = 1/(‖sᵢ‖ ‖tᵢ‖); then the same for H with the attention already corrected. Where
    attention and MLP are parallel both are solved at once toward the layer's output, unless a norm
    follows or there are experts. The layer before a further gap aims at the state behind that gap.
    Norms behind the projections, and experts, are treated as in ``refit``. Both streams advance layer by
    layer, so that only their current states are held.
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
    """The states of one batch in both models, before or after the same layer.

    Attributes:
        inputs: of projections of the pruned layer, kept until they have their new weights.
        outputs: of those that have them.
    """

    batch: Batch
    calls: list[Call]
    original: Kept
    pruned: Kept
    inputs: dict[str, Kept] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)


class _Walk:
    """Both models side by side, and the weights found so far.

    All batches pass a layer before the next. The intact layer runs once, and what is before a
    projection of the pruned one: the projection's input is kept while its weights are solved for, and
    from there the layer goes on.
    """

    def __init__(
        self, decoder: Decoder, blocks: tuple[Block, ...], weights: Weights, ridge: float
    ) -> None:
        self.decoder, self.blocks, self.weights, self.ridge = decoder, blocks, weights, ridge
        self.ends = {block.start - 1: block.end for block in blocks}
        self.layer = 0
        self.room = 0
        self.streams: list[_Stream] = []

    @property
    def batches(self) -> list[Batch]:
        return [stream.batch for stream in self.streams]

    def start(self, batches: Batches) -> None:
        """Bring both streams behind the first gap; the pruned one has its weights already."""
        from replaceme.decoder import capture

        gap = self.blocks[0]
        layer = gap.start - 1
        for batch in batches:
            states, calls = self.decoder.enter(batch)
            kept = self.decoder.room.put(states)
            self.streams.append(_Stream(batch, calls, kept, kept))
        self._move_original(0, layer)
        reads = {path: self.decoder.input_of(layer, path) for path in self.decoder.kind(layer).around}
        self.room = KEPT_BYTES
        for stream in self.streams:
            stream.pruned = stream.original
            with capture(reads) as seen:
                self._step_original(layer, stream)
            self._keep(layer, stream, seen)
        self._move_pruned(layer)
        self._move_original(layer + 1, gap.end)
        self.layer = gap.end

    def advance(self) -> bool:
        """Solve the next kept layer, and move both streams behind it; false at the end."""
        layer, last = self.layer, len(self.decoder.layers)
        if layer == last:
            return False
        following = self.ends.get(layer, layer + 1)
        mixer = self.decoder.kind(layer).mixer
        if mixer and not self._is_joint(layer):
            self._solve_mixer(layer, mixer)
        else:
            self._move_original(layer, layer + 1)
        self._move_original(layer + 1, following)
        self._solve_output(layer)
        if following < last:
            self._move_pruned(layer)
        self.layer = following
        return True

    def _move_original(self, start: int, end: int) -> None:
        for layer in range(start, end):
            for stream in self.streams:
                self._step_original(layer, stream)

    def _step_original(self, layer: int, stream: _Stream) -> None:
        states = self.decoder.step(layer, stream.original.read(), stream.calls[layer])
        stream.original = self.decoder.room.put(states)

    def _move_pruned(self, layer: int) -> None:
        with self._put_weights(layer):
            for stream in self.streams:
                stream.pruned = self.decoder.room.put(self._step_pruned(layer, stream))
                stream.outputs.clear()

    def _step_pruned(self, layer: int, stream: _Stream) -> Tensor:
        """The pruned model's states behind a layer with the weights that it has now."""
        for path in list(stream.inputs):
            inputs = stream.inputs.pop(path).read()
            stream.outputs[path] = self.decoder.project(layer, path, inputs)
        return self.decoder.step(layer, stream.pruned.read(), stream.calls[layer], stream.outputs)

    @contextmanager
    def _put_weights(self, layer: int) -> Iterator[None]:
        """The layer with the pruned model's weights."""
        from replaceme.edit import Edit, change_layer

        own = {key: values for key, values in self.weights.items() if key[0] == layer}
        decoder = self.decoder
        with change_layer(decoder.model, decoder.architecture, Edit(weights=own), layer):
            yield

    def _is_joint(self, layer: int) -> bool:
        """Whether attention and MLP are parallel, and their projections one linear system."""
        kind = self.decoder.kind(layer)
        return kind.parallel and not kind.norms and not kind.experts

    def _solve_mixer(self, layer: int, path: str) -> None:
        """Solve for what ends the attention, toward the intact residual stream behind it, and move the
        intact model's states behind the layer."""
        from replaceme.decoder import Read, capture

        fit = choose_fit(self.decoder, layer, [path], self.ridge)
        end = Read((self.decoder.end_of(layer, path),))
        for stream in self.streams:
            original, pruned = stream.original.read(), stream.pruned.read()
            with capture({path: end}) as seen:
                self._step_original(layer, stream)
            goal = self._add_mixed(layer, original, seen[path])
            inputs, output = self.decoder.mix(layer, pruned, stream.calls[layer])
            state = self._add_mixed(layer, pruned, output)
            fit.add(stream.batch, {path: inputs}, state, goal)
            self._keep(layer, stream, {path: inputs})
        self.weights |= fit.solve()

    def _add_mixed(self, layer: int, states: Tensor, output: Tensor) -> Tensor:
        """The residual stream behind what mixes tokens, float32, from that before and what is added."""
        factor = self.decoder.kind(layer).mixer_factor
        return states.to(output.device).float() + factor * output.float()

    def _solve_output(self, layer: int) -> None:
        """The MLP's output projection or experts, and the attention's projection with it if joint."""
        from replaceme.decoder import capture

        mixer = self.decoder.kind(layer).mixer
        paths = [mixer] if mixer and self._is_joint(layer) else []
        paths.append(self.decoder.entry(layer))
        reads = {path: self.decoder.input_of(layer, path) for path in paths}

        fit = choose_fit(self.decoder, layer, paths, self.ridge)
        self.room = KEPT_BYTES
        with self._put_weights(layer):
            for stream in self.streams:
                with capture(reads) as seen:
                    state = self._step_pruned(layer, stream)
                fit.add(stream.batch, seen, state, stream.original.read())
                self._keep(layer, stream, seen)
        self.weights |= fit.solve()

    def _keep(self, layer: int, stream: _Stream, inputs: Mapping[str, Tensor]) -> None:
        """Keep inputs of projections where the layer can go on from them; those of the MLP's, which are
        wide, while there is room."""
        kind = self.decoder.kind(layer)
        for path in inputs:
            size = 0 if path == kind.mixer else inputs[path].nbytes
            if path in kind.around and size <= self.room:
                self.room -= size
                stream.inputs[path] = self.decoder.room.put(inputs[path])
