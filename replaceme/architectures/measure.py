"""What the decoder layers of a model do, found by running them and changing what is inside.

Nothing is looked up by class or by name: a module's output is added last if the layer's output moves
with it by a fixed factor, a matrix takes a transform if transforming it transforms what is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from replaceme.architectures.architecture import Architecture, Axis, LayerKind
from replaceme.architectures.per_layer import pruned_config
from replaceme.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 6
OFFSETS = (0.0, 1.0)  # norms multiply by their weight, or by one more
ROWS = 2  # outputs of a tensor that are moved one at a time
LEAK = 0.1  # of a token's influence on itself that it has on those before it in an encoder, at least
RTOL, ATOL = 1e-3, 1e-4  # of numbers about 1, in float32


@torch.no_grad()
def measure(model: PreTrainedModel, title: str, where: str) -> Architecture:
    """What the layers of a model do, whatever its class.

    Args:
        model: in float32, in evaluation mode; it is as before afterwards.
        title: the family, for people.
        where: names the model in errors.

    Raises:
        InputError: it is no decoder, or its layers are not run one after the other.
    """
    ids = torch.arange(TOKENS, device=model.device)[None] % model.config.get_text_config().vocab_size
    path, calls, final_norm = _find_layers(model, ids, where)
    _check_causal(model, ids, where)
    layers = model.get_submodule(path)
    kinds: dict[Any, list[int]] = {}
    for number, layer in enumerate(layers):
        kinds.setdefault(_built(layer), []).append(number)
    found = []
    for numbers in kinds.values():
        call = calls[numbers[0]]
        found.append(_Layer(layers[numbers[0]], call).measure(tuple(numbers)))
    return Architecture(
        title, path, tuple(found), final_norm, along=_find_along(model, path, len(layers))
    )


def _find_along(model: PreTrainedModel, path: str, count: int) -> dict[str, int]:
    """Tensors outside the layers that are smaller by a layer's part where there is one layer less."""
    try:
        said = pruned_config(model.config.to_dict(), [*range(count - 1)])
        with torch.device("meta"):
            shorter = type(model)(type(model.config).from_dict(said))
    except Exception:  # a class that has no such model; what is removed is tried anyway
        return {}
    shapes = {name: tensor.shape for name, tensor in shorter.named_parameters()}
    along = {}
    for name, tensor in model.named_parameters():
        shape = shapes.get(name, tensor.shape)
        if name.startswith(f"{path}.") or len(shape) != tensor.ndim:
            continue
        parts = [a for a in range(tensor.ndim) if shape[a] * count == tensor.shape[a] * (count - 1)]
        if shape != tensor.shape and len(parts) == 1:
            along[name] = parts[0]
    return along


def _built(layer: nn.Module) -> Any:
    """Equal for layers that are built alike."""
    modules = tuple((name, type(module).__qualname__) for name, module in layer.named_modules())
    return modules, tuple((name, tuple(tensor.shape)) for name, tensor in layer.named_parameters())


@dataclass(frozen=True)
class _Call:
    """A call of a decoder layer."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor

    @property
    def states(self) -> Any:
        return self.args[0] if self.args else self.kwargs.get("hidden_states")


def _find_layers(model: PreTrainedModel, ids: Tensor, where: str) -> tuple[str, list[_Call], str | None]:
    """Path of the decoder layers, the call of each, and the norm behind them.

    They are the longest list of modules that are called in their order, each on what the one before
    has returned.
    """
    owners: dict[nn.Module, list[tuple[str, int]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            for number, child in enumerate(module):
                owners.setdefault(child, []).append((name, number))
    seen: dict[str, list[tuple[int, _Call]]] = {}
    after: list[tuple[nn.Module, Any, Any]] = []

    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        after.append((module, args[0] if args else None, first_tensor(output)))
        for name, number in owners.get(module, ()):
            call = _Call(args, dict(kwargs), first_tensor(output))
            if isinstance(call.states, Tensor) and isinstance(call.output, Tensor):
                seen.setdefault(name, []).append((number, call))

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_hook(record, with_kwargs=True).remove)
        model(input_ids=ids, use_cache=False)
    chains = {
        name: [call for _, call in run] for name, run in seen.items() if _is_chain(model, name, run)
    }
    if not chains:
        raise InputError(
            f"{where}: no list of its modules is run like decoder layers, each once, in order, on what "
            f"the one before has returned."
        )
    path = max(chains, key=lambda name: (len(chains[name]), -name.count(".")))
    last = chains[path][-1].output
    names = {module: name for name, module in model.named_modules()}
    norms = [
        names[module]
        for module, given, returned in after
        if given is last and isinstance(returned, Tensor) and returned.shape == last.shape
    ]
    return path, chains[path], norms[0] if norms else None


def _is_chain(model: PreTrainedModel, name: str, run: list[tuple[int, _Call]]) -> bool:
    if [number for number, _ in run] != list(range(len(model.get_submodule(name)))):
        return False
    calls = [call for _, call in run]
    if any(call.states.shape != call.output.shape or call.states.ndim < 3 for call in calls):
        return False
    return all(
        before.output is call.states or torch.equal(before.output, call.states)
        for before, call in pairwise(calls)
    )


def _check_causal(model: PreTrainedModel, ids: Tensor, where: str) -> None:
    """Refuse a model whose tokens see those that come after them."""
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % model.config.get_text_config().vocab_size
    one, two = (model(input_ids=tokens, use_cache=False).logits[0] for tokens in (ids, other))
    if (one[:-1] - two[:-1]).abs().max() > LEAK * (one[-1] - two[-1]).abs().max():
        raise InputError(
            f"{where}: its tokens see those that come after them, as in an encoder; supported are "
            f"decoders."
        )


class _Layer:
    """A decoder layer that is run again and again on the same random states."""

    def __init__(self, layer: nn.Module, call: _Call) -> None:
        self.layer, self.call = layer, call
        self._chance = torch.Generator().manual_seed(0)
        self.states = self._noise(call.states)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._chance).to(like.device, like.dtype)

    def run(self) -> Tensor:
        states, call = self.states.clone(), self.call
        if call.args:
            return first_tensor(self.layer(states, *call.args[1:], **call.kwargs)).clone()
        return first_tensor(self.layer(**(call.kwargs | {"hidden_states": states}))).clone()

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
        mixer, mixer_factor = self._mixer(adds) if tokenwise else (None, 1.0)
        return LayerKind(
            numbers,
            adds,
            round(factors[adds[0]], 6),
            found.outputs,
            projection,
            found.norm,
            found.scales,
            mixer,
            mixer_factor,
            mixer in factors,
            bool(tokenwise),
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
            tensor = first_tensor(output)
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

        before = first_tensor(module(*_cloned(args), **_cloned(kwargs)))
        after = first_tensor(
            module(*map(moved, args), **{key: moved(value) for key, value in kwargs.items()})
        )
        one, two = (tensor.reshape(-1, self.states.shape[-1])[1:] for tensor in (before, after))
        return bool(torch.allclose(one, two, rtol=RTOL, atol=ATOL))

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
        with other_values(values):
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
        with other_values({tensor: values}):
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

    def _mixer(self, adds: tuple[str, ...]) -> tuple[str | None, float]:
        """The matrix that ends what is added before M's branch, and its factor."""
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
            matrices = [name for name in factors if self._is_matrix(name)]
            if len(matrices) != 1:
                return None, 1.0
            (mixer,) = matrices
            stack.enter_context(changed_output(self._modules[mixer], torch.zeros_like))
            alone = torch.allclose(self.run(), self.states, rtol=RTOL, atol=ATOL)
        return (mixer, round(factors[mixer], 6)) if alone else (None, 1.0)

    def _is_matrix(self, name: str) -> bool:
        weight = getattr(self._modules[name], "weight", None)
        return weight is not None and weight.ndim == 2


@dataclass(frozen=True)
class _Merges:
    outputs: dict[str, Axis]
    norm: str | None = None
    scales: dict[str, float] = field(default_factory=dict)


def first_tensor(output: Any) -> Tensor:
    """The states in what a module returns, which may be a tuple that starts with them."""
    states: Tensor = output[0] if isinstance(output, tuple | list) else output
    return states


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


@contextmanager
def changed_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The module with other states in what it returns, for as long as the context lasts."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple | list):
            return type(output)((change(output[0]), *output[1:]))
        return change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def other_values(values: dict[nn.Parameter, Tensor]) -> Iterator[None]:
    """Parameters with other values for as long as the context lasts."""
    own = {parameter: parameter.data for parameter in values}
    try:
        for parameter, new in values.items():
            parameter.data = new.detach().to(parameter)
        yield
    finally:
        for parameter, data in own.items():
            parameter.data = data
