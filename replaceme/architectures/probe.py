"""What one decoder layer does, found by running it and changing what is inside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from replaceme.architectures.architecture import Around, Axis, LayerKind, Norm
from replaceme.hooks import changed_output, first, other_values, replace_forwards

OFFSETS = (0.0, 1.0)  # norms multiply by their weight, or by one more
ROWS = 2  # outputs of a tensor that are moved one at a time
RTOL, ATOL = 1e-3, 1e-4  # of numbers about 1, in float32


@dataclass(frozen=True)
class LayerCall:
    """A call of a decoder layer."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor

    @property
    def states(self) -> Any:
        return self.args[0] if self.args else self.kwargs.get("hidden_states")


class Probe:
    """A decoder layer that is run again and again on the same random states."""

    def __init__(self, layer: nn.Module, call: LayerCall) -> None:
        self.layer, self.call = layer, call
        self._chance = torch.Generator().manual_seed(0)
        self.states = self._noise(call.states)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._chance).to(like.device, like.dtype)

    def run(self) -> Tensor:
        states, call = self.states.clone(), self.call
        if call.args:
            return first(self.layer(states, *call.args[1:], **call.kwargs)).clone()
        return first(self.layer(**(call.kwargs | {"hidden_states": states}))).clone()

    def measure(self, numbers: tuple[int, ...]) -> LayerKind:
        output = self.run()
        outputs = self._outputs()
        factors = self._factors(outputs, output)
        outer = _outermost({*factors})
        inputs = self._inputs(outer)
        tokenwise = [name for name in outer if self._is_tokenwise(name, *inputs[name])]
        branch = {n for n in factors if any(_is_inside(n, other) for other in tokenwise or outer)}
        for adds in _from_outside(branch):
            if len({round(factors[name], 4) for name in adds}) > 1:
                continue
            found = self._merges(adds)
            if found.outputs or found.norm:
                break
        else:
            adds = ()
        if not adds:
            return LayerKind(numbers, tokenwise=False)
        projection = self._projection(adds, found.outputs)
        if projection:
            adds = (projection,)
        norms = self._norms(found)
        projection = next(iter(norms), projection)
        mixer, mixer_factor = None, 1.0
        if tokenwise:
            mixer, mixer_factor, before = self._mixer(adds)
            norms |= before
        ends = {path: self._around(path) for path in (mixer, projection) if path}
        return LayerKind(
            numbers,
            adds,
            round(factors[adds[0]], 6),
            found.outputs,
            projection=projection,
            experts=not projection and bool(tokenwise and found.outputs) and self._are_alike(adds),
            norm=found.norm,
            scales=found.scales,
            mixer=mixer,
            mixer_factor=mixer_factor,
            norms=norms,
            around={path: around for path, around in ends.items() if around},
            parallel=(norms[mixer].path if mixer in norms else mixer) in factors,
            tokenwise=bool(tokenwise),
        )

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        """Those with parameters, in their order."""
        return {
            name: module
            for name, module in self.layer.named_modules()
            if name and any(True for _ in module.parameters())
        }

    def _outputs(self) -> dict[str, Tensor]:
        """Outputs of the modules that are as large as the states, in the order of their calls."""
        found: dict[str, Tensor] = {}

        def keep(name: str, output: Any) -> None:
            tensor = first(output)
            if isinstance(tensor, Tensor) and self._is_state(tensor):
                found[name] = tensor.clone()

        with ExitStack() as stack:
            for name, module in self._modules.items():
                hook = lambda _m, _i, output, name=name: keep(name, output)  # noqa: E731
                stack.callback(module.register_forward_hook(hook).remove)
            self.run()
        return found

    def _is_state(self, tensor: Tensor) -> bool:
        return tensor.numel() == self.states.numel() and tensor.shape[-1] == self.states.shape[-1]

    def _factors(self, outputs: Iterable[str], output: Tensor) -> dict[str, float]:
        """c of the modules that move the layer's output by c·δ when their own moves by δ."""
        return {name: c for name in outputs if (c := self._factor(name, output)) is not None}

    def _factor(self, name: str, output: Tensor) -> float | None:
        moved: list[Tensor] = []

        def move(tensor: Tensor) -> Tensor:
            moved.append(self._noise(tensor) * tensor.std().clamp_min(1e-2))
            return tensor + moved[-1]

        with changed_output(self._modules[name], move):
            change = (self.run() - output).flatten()
        if len(moved) != 1:
            return None
        by = moved[0].flatten()
        c = float(change @ by / (by @ by))
        size = abs(c) * float(by.abs().max())
        same = abs(c) > 1e-6 and torch.allclose(change, c * by, rtol=RTOL, atol=ATOL * size + 2e-6)
        return c if same else None

    def _inputs(self, names: Iterable[str]) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
        """What modules are called with."""
        found: dict[str, Any] = {}
        with ExitStack() as stack:
            for name in names:
                hook = lambda _m, args, kwargs, name=name: found.update({name: (args, dict(kwargs))})  # noqa: E731
                module = self._modules[name]
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            self.run()
        return found

    def _is_tokenwise(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a module's output for a token depends on this token's input alone."""
        module = self._modules[name]

        def moved(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            if value.ndim < 2 or not self._is_state(value):
                return value
            rows = value.clone().reshape(self.states.numel() // self.states.shape[-1], -1)
            rows[0] += self._noise(rows[0])
            return rows.reshape(value.shape)

        before = first(module(*_cloned(args), **_cloned(kwargs)))
        after = first(module(*map(moved, args), **{key: moved(value) for key, value in kwargs.items()}))
        one, two = (tensor.reshape(-1, self.states.shape[-1])[1:] for tensor in (before, after))
        return bool(torch.allclose(one, two, rtol=RTOL, atol=ATOL))

    def _are_alike(self, names: tuple[str, ...]) -> bool:
        """Whether modules are all given the same state, and nothing else."""
        calls = self._inputs(names).values()
        given = [args[0] for args, _ in calls if len(args) == 1 and isinstance(args[0], Tensor)]
        others = [value for _, kwargs in calls for value in kwargs.values() if value is not None]
        return (
            len(given) == len(names)
            and not others
            and all(state.shape == self.states.shape and torch.equal(state, given[0]) for state in given)
        )

    def _sum(self, adds: Iterable[str]) -> Tensor:
        outputs = self._outputs()
        return sum(outputs[name].reshape(self.states.shape) for name in adds)  # type: ignore[return-value]

    def _merges(self, adds: tuple[str, ...]) -> _Merges:
        """Where a transform of what some modules add can be merged into their weights."""
        before = self._sum(adds)
        tensors = {
            f"{name}.{rest}": tensor
            for name in adds
            for rest, tensor in self._modules[name].named_parameters()
        }
        axes = {
            name: axis
            for name, tensor in tensors.items()
            if (axis := self._output_axis(adds, tensor, before)) is not None
        }
        width = before.shape[-1]
        transform = (
            torch.eye(width) + 0.3 * torch.randn(width, width, generator=self._chance) / width**0.5
        )
        matrices = {name: axis for name, axis in axes.items() if tensors[name].ndim > 1}
        for outputs in (axes, matrices):
            if not matrices:
                break
            merged = {
                tensors[name]: transform.mT @ tensors[name] if axis == -2 else tensors[name] @ transform
                for name, axis in outputs.items()
            }
            if self._becomes(adds, merged, before @ transform):
                return _Merges(outputs)
        return self._scales(adds, tensors, axes, before)

    def _scales(
        self,
        adds: tuple[str, ...],
        tensors: dict[str, nn.Parameter],
        axes: dict[str, Axis],
        before: Tensor,
    ) -> _Merges:
        """The norm that a diagonal can be merged into, which is what is added."""
        scale = 1 + 0.5 * torch.rand(before.shape[-1], generator=self._chance)
        vectors = {name for name in axes if tensors[name].ndim == 1}
        for norm in {name.rpartition(".")[0] for name in vectors}:
            if f"{norm}.weight" not in vectors:
                continue
            weight, bias = tensors[f"{norm}.weight"], tensors.get(f"{norm}.bias")
            for offset in OFFSETS:
                merged = {weight: (weight + offset) * scale - offset}
                if bias is not None:
                    merged[bias] = bias * scale
                if self._becomes(adds, merged, before * scale):
                    scales = {f"{norm}.weight": offset}
                    return _Merges({}, norm, scales if bias is None else scales | {f"{norm}.bias": 0.0})
        return _Merges({})

    def _becomes(
        self, adds: tuple[str, ...], values: dict[nn.Parameter, Tensor], expected: Tensor
    ) -> bool:
        """Whether other values of parameters make modules add something."""
        with other_values(values.items()):
            after = self._sum(adds)
        size = float(expected.abs().max())
        return bool(torch.allclose(after, expected, rtol=RTOL, atol=ATOL * size))

    def _output_axis(self, adds: tuple[str, ...], tensor: nn.Parameter, before: Tensor) -> Axis | None:
        """The axis along which a tensor's entries each move one number of what is added."""
        width = before.shape[-1]
        axes: list[Axis] = [-1] if tensor.ndim == 1 else [-2, -1]
        for axis in axes:
            if tensor.shape[axis] == width and all(
                self._moves_one(adds, tensor, axis, row, before) for row in range(ROWS)
            ):
                return axis
        return None

    def _moves_one(
        self, adds: tuple[str, ...], tensor: nn.Parameter, axis: Axis, row: int, before: Tensor
    ) -> bool:
        values = tensor.data.clone()
        values.select(axis, row).add_(
            self._noise(values.select(axis, row)) * values.std().clamp_min(0.1)
        )
        with other_values([(tensor, values)]):
            change = (self._sum(adds) - before).abs().amax(tuple(range(before.ndim - 1)))
        moved = change > 1e-5 * float(change.max())
        return bool(change[row] > 0) and int(moved.sum()) == 1

    def _projection(self, adds: tuple[str, ...], outputs: dict[str, Axis]) -> str | None:
        """The single matrix that makes what is added, where there is one."""
        owners = {name.rpartition(".")[0] for name in outputs}
        if len(owners) != 1:
            return None
        (owner,) = owners
        module = self._modules.get(owner)
        if module is None or not self._is_matrix(owner):
            return None
        return (
            owner if torch.allclose(self._sum((owner,)), self._sum(adds), rtol=RTOL, atol=ATOL) else None
        )

    def _mixer(self, adds: tuple[str, ...]) -> tuple[str | None, float, dict[str, Norm]]:
        """The matrix that ends what is added before M's branch, its factor, and the norm it passes."""
        none: tuple[None, float, dict[str, Norm]] = (None, 1.0, {})
        with ExitStack() as stack:
            for name in adds:
                stack.enter_context(changed_output(self._modules[name], torch.zeros_like))
            output = self.run()
            names = [
                name
                for name in self._outputs()
                if not any(_is_inside(name, add) or _is_inside(add, name) for add in adds)
            ]
            factors = self._factors(names, output)
            ends: dict[str, dict[str, Norm]] = {name: {} for name in factors if self._is_matrix(name)}
            if not ends:
                passed = {name: self._norms(self._merges((name,))) for name in factors}
                ends = {name: norms for name, norms in passed.items() if norms}
            if len(ends) != 1:
                return none
            ((end, norms),) = ends.items()
            stack.enter_context(changed_output(self._modules[end], torch.zeros_like))
            alone = torch.allclose(self.run(), self.states, rtol=RTOL, atol=ATOL)
        return (next(iter(norms), end), round(factors[end], 6), norms) if alone else none

    def _around(self, path: str) -> Around | None:
        """Where the output of a projection can be put, so that the least of the layer has to run."""
        names = path.split(".")
        for depth in range(1, len(names)):
            around = self._returning(".".join(names[:depth]), path)
            if around and self._replaces(around, path):
                return around
        return self._returning(path, path)

    def _returning(self, name: str, path: str) -> Around | None:
        """A module as one that returns what the projection does, if it is."""
        seen: dict[str, Any] = {}
        with ExitStack() as stack:
            for each in (path, name):
                hook = lambda _m, _i, output, each=each: seen.update({each: _cloned(output)})  # noqa: E731
                stack.callback(self.layer.get_submodule(each).register_forward_hook(hook).remove)
            self.run()
        output = first(seen.get(name))
        if not isinstance(output, Tensor) or (name != path and output.shape != self.states.shape):
            return None
        if not torch.equal(output.flatten(), first(seen[path]).flatten()):
            return None
        return Around(name, len(seen[name]) - 1 if isinstance(seen[name], tuple) else None)

    def _replaces(self, around: Around, path: str) -> bool:
        """Whether the layer does with another output in the module's place what it does when the
        projection returns that."""
        other = self._noise(self.states)
        put = lambda output: other.clone().reshape(output.shape)  # noqa: E731
        with changed_output(self._modules[path], put):
            wanted = self.run()
        module = self.layer.get_submodule(around.path)
        try:
            with replace_forwards([module], lambda *_, **__: around.returns(other.clone())):
                found = self.run()
        except Exception:  # it reads what is returned beside
            return False
        return bool(torch.allclose(found, wanted, rtol=RTOL, atol=ATOL))

    def _norms(self, found: _Merges) -> dict[str, Norm]:
        """The matrix whose output is what the last norm is given, with that norm, if it is a
        root-mean-square one."""
        if found.norm is None or len(found.scales) != 1:
            return {}
        (args, kwargs) = self._inputs((found.norm,))[found.norm]
        given = first([*args, *kwargs.values()])
        matrices = [
            name
            for name, output in self._outputs().items()
            if self._is_matrix(name) and torch.equal(output.flatten(), given.flatten())
        ]
        norm = Norm(found.norm, found.scales[f"{found.norm}.weight"])
        return {matrices[0]: norm} if len(matrices) == 1 and self._is_rms(norm, given) else {}

    def _is_rms(self, norm: Norm, given: Tensor) -> bool:
        module = self._modules[norm.path]
        expected = given / given.square().mean(-1, keepdim=True).sqrt()
        expected = (module.get_parameter("weight") + norm.offset) * expected
        return bool(torch.allclose(module(given), expected, rtol=10 * RTOL, atol=10 * ATOL))

    def _is_matrix(self, name: str) -> bool:
        weight = getattr(self._modules[name], "weight", None)
        return weight is not None and weight.ndim == 2


@dataclass(frozen=True)
class _Merges:
    outputs: dict[str, Axis]
    norm: str | None = None
    scales: dict[str, float] = field(default_factory=dict)


def _cloned(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _cloned(value) for key, value in values.items()}
    if isinstance(values, tuple):
        return tuple(map(_cloned, values))
    return values.clone() if isinstance(values, Tensor) else values


def _is_inside(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other}.")


def _outermost(names: set[str]) -> tuple[str, ...]:
    return tuple(n for n in sorted(names) if not any(n != o and _is_inside(n, o) for o in names))


def _from_outside(names: set[str]) -> Iterator[tuple[str, ...]]:
    """Sets of modules none of which is in another: the outermost, then what is in them."""
    while names:
        outer = _outermost(names)
        yield outer
        inner = names - {*outer}
        if not inner:
            return
        names = inner | {n for n in outer if not any(_is_inside(i, n) for i in inner)}
