"""What the pruner must know of a model's decoder layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

Axis = Literal[-1, -2]


@dataclass(frozen=True)
class Norm:
    """A root-mean-square norm: x becomes (weight + offset) · x / rms(x)."""

    path: str
    offset: float


@dataclass(frozen=True)
class Around:
    """The outermost module around a projection in whose place the projection's output can be put.

    Attributes:
        path: the module; that projection itself, if no other.
        beside: how many values that nothing reads it returns in a tuple behind its output; ``None``: it
            returns its output alone.
    """

    path: str
    beside: int | None = None

    def returns(self, output: Tensor) -> Any:
        """What the module returns where its output is this."""
        return output if self.beside is None else (output, *[None] * self.beside)


class Part(NamedTuple):
    """Which part of a parameter a tensor in files is.

    Attributes:
        parameter: its name within a layer, in memory.
        expert: whose part it is; ``None``: the whole.
        turned: whether its last two axes are exchanged in files.
    """

    parameter: str
    expert: int | None
    turned: bool

    def of(self, values: Tensor) -> Tensor:
        """The part of the parameter's values, as files have it."""
        part = values if self.expert is None else values[self.expert]
        return part.mT if self.turned else part


@dataclass(frozen=True)
class LayerKind:
    """What decoder layers that are built alike do; the names are relative to a layer.

    M is what the last branch of a layer adds to the residual stream, without ``factor``: the sum of
    what the modules ``adds`` return.

    Attributes:
        layers: numbers of the layers.
        adds: the modules; empty: nothing was found that is added last.
        factor: of M in the residual stream.
        outputs: tensors that M is linear in, names in memory and in files, ``*`` for an expert's number,
            each with the axis of its outputs: -2 (…, out, in), -1 (…, in, out) and a bias (…, out).
            Merging a transform into all of them transforms M.
        stored: those that are called something else in files, or are one for each expert there, each
            with the parameter in memory that it is a part of.
        projection: the matrix that ends M's branch, where it is a single one.
        experts: where M is made by several instead, each module of ``adds`` is given one and the same
            state and nothing else, and M is linear in ``outputs``.
        norm: the norm that M passes last.
        scales: its tensors, which take a diagonal transform, each with what the norm adds to it.
        mixer: the projection that ends the attention, or whatever else mixes tokens, where the stream
            behind it is the one before plus ``mixer_factor`` times its output.
        norms: for each of the two projections whose output passes a norm before it is added, that norm.
        around: for each of the two projections, what need not run where its output is known.
        parallel: that projection and M's branch read the same state.
        tokenwise: M of a token depends on this token alone.
    """

    layers: tuple[int, ...]
    adds: tuple[str, ...] = ()
    factor: float = 1.0
    outputs: dict[str, Axis] = field(default_factory=dict, hash=False)
    stored: dict[str, str] = field(default_factory=dict, hash=False)
    projection: str | None = None
    experts: bool = False
    norm: str | None = None
    scales: dict[str, float] = field(default_factory=dict, hash=False)
    mixer: str | None = None
    mixer_factor: float = 1.0
    norms: dict[str, Norm] = field(default_factory=dict, hash=False)
    around: dict[str, Around] = field(default_factory=dict, hash=False)
    parallel: bool = False
    tokenwise: bool = True

    @property
    def entry(self) -> str | None:
        """The module whose input decides M: the projection, or the first that experts are in."""
        return self.adds[0] if self.experts else self.projection

    def factor_of(self, path: str) -> float:
        """What the output of one of the two projections is multiplied by in the residual stream."""
        return self.mixer_factor if path == self.mixer else self.factor

    def merge_axis(self, tensor: str) -> Axis | None:
        """The axis of a tensor's outputs where a whole transform is merged into it."""
        return next((axis for name, axis in self.outputs.items() if _match(name, tensor)), None)

    def part(self, tensor: str) -> Part | None:
        """Of which parameter a tensor in files is a part; ``None``: it is called as in memory."""
        for name, parameter in self.stored.items():
            if match := _match(name, tensor):
                expert = int(match[1]) if match.groups() else None
                return Part(parameter, expert, self.outputs[name] != self.outputs[parameter])
        return None

    def scale_offset(self, tensor: str) -> float | None:
        """What the last norm adds to a tensor that takes a diagonal transform; ``None`` for others."""
        return self.scales.get(tensor)

    def merges(self, tensor: str) -> bool:
        """Whether merging a transform changes a tensor."""
        return self.merge_axis(tensor) is not None or self.scale_offset(tensor) is not None

    def ends(self, tensor: str) -> bool:
        """Whether a tensor is one of those that end the two branches: of a projection, or its norm."""
        modules = {self.projection, self.mixer, *(norm.path for norm in self.norms.values())}
        return tensor.rpartition(".")[0] in modules


def _match(name: str, tensor: str) -> re.Match[str] | None:
    """A tensor's name, compared with one that may have ``*`` for a number."""
    return re.fullmatch(re.escape(name).replace(r"\*", r"(\d+)"), tensor)


@dataclass(frozen=True)
class Architecture:
    """A model's decoder.

    Attributes:
        title: the family, for people.
        layers: path of the list of decoder layers, also a prefix of tensor names.
        kinds: what its layers do; each layer is of one.
        final_norm: norm after the last layer.
        stored_layers: prefixes of tensor names in files, where they are others than ``layers``.
        along: tensors outside the layers that hold an equal part for each of them, such as per-layer
            embeddings, with the axis of the parts; names in memory and in files.
    """

    title: str
    layers: str
    kinds: tuple[LayerKind, ...]
    final_norm: str | None = None
    stored_layers: tuple[str, ...] = ()
    along: dict[str, int] = field(default_factory=dict, hash=False)

    @cached_property
    def _kind_of(self) -> dict[int, LayerKind]:
        return {layer: kind for kind in self.kinds for layer in kind.layers}

    def kind(self, layer: int) -> LayerKind:
        """What a layer of the intact model does."""
        return self._kind_of[layer]

    def part(self, layer: int, tensor: str) -> Part | None:
        """:meth:`LayerKind.part` of a tensor of a decoder layer."""
        kind = self._kind_of.get(layer)
        return kind.part(tensor) if kind else None

    def keeping(self, numbers: Sequence[int]) -> Architecture:
        """That of the model with some of its layers alone, which are numbered anew."""
        place = {number: index for index, number in enumerate(numbers)}
        kinds = [
            replace(kind, layers=tuple(place[number] for number in kind.layers if number in place))
            for kind in self.kinds
        ]
        return replace(self, kinds=tuple(kind for kind in kinds if kind.layers))

    def with_factors(self, factors: Mapping[int, float]) -> Architecture:
        """That with what some layers multiply their last branch by."""
        alike: dict[LayerKind, list[int]] = {}
        for kind in self.kinds:
            for layer in kind.layers:
                own = replace(kind, layers=(), factor=factors.get(layer, kind.factor))
                alike.setdefault(own, []).append(layer)
        kinds = (replace(kind, layers=tuple(layers)) for kind, layers in alike.items())
        return replace(self, kinds=tuple(kinds))

    def decoder_layers(self, model: nn.Module) -> nn.ModuleList:
        return model.get_submodule(self.layers)  # type: ignore[return-value]

    @contextmanager
    def only_layers(self, model: nn.Module, numbers: Iterable[int]) -> Iterator[None]:
        """The model with some of its decoder layers for as long as the context lasts."""
        from torch import nn

        parent_name, _, name = self.layers.rpartition(".")
        parent, layers = model.get_submodule(parent_name), self.decoder_layers(model)
        setattr(parent, name, nn.ModuleList([layers[number] for number in numbers]))
        try:
            yield
        finally:
            setattr(parent, name, layers)

    def split(self, tensor: str) -> tuple[str, int, str] | None:
        """(prefix, layer, rest) of a tensor's name inside a decoder layer, else ``None``.

        Some files leave out the first part of the path (``h.0.…`` for ``transformer.h.0.…``).
        """
        match = self._layer_tensor.fullmatch(tensor)
        return (match[1], int(match[2]), match[3]) if match else None

    @cached_property
    def _layer_tensor(self) -> re.Pattern[str]:
        first, _, rest = self.layers.partition(".")
        names = [rf"(?:{re.escape(first)}\.)?{re.escape(rest)}\." if rest else rf"{re.escape(first)}\."]
        names += [rf"{re.escape(prefix)}\." for prefix in self.stored_layers]
        return re.compile(rf"({'|'.join(names)})(\d+)\.(.+)")
