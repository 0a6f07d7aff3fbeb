"""What the decoder layers of a model do, found by running them and changing what is inside.

Nothing is looked up by class or by name: a module's output is added last if the layer's output moves
with it by a fixed factor, a matrix takes a transform if transforming it transforms what is added.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from replaceme.architectures.architecture import Architecture
from replaceme.architectures.per_layer import pruned_config
from replaceme.architectures.probe import LayerCall, Probe
from replaceme.errors import InputError
from replaceme.hooks import first

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 6
LEAK = 0.1  # of a token's influence on itself that it has on those before it in an encoder, at least


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
        found.append(Probe(layers[numbers[0]], call).measure(tuple(numbers)))
    return Architecture(
        title, path, tuple(found), final_norm, along=_find_along(model, path, len(layers))
    )


def _find_along(model: PreTrainedModel, path: str, count: int) -> dict[str, int]:
    """Tensors outside the layers that are smaller by a layer's part where there is one layer less."""
    kept = [i for i in range(count) if i != count // 2]
    try:
        said = pruned_config(model.config.to_dict(), kept)
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


def _find_layers(
    model: PreTrainedModel, ids: Tensor, where: str
) -> tuple[str, list[LayerCall], str | None]:
    """Path of the decoder layers, the call of each, and the norm behind them.

    They are the longest list of modules that are called in their order, each on what the one before
    has returned.
    """
    owners: dict[nn.Module, list[tuple[str, int]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            for number, child in enumerate(module):
                owners.setdefault(child, []).append((name, number))
    seen: dict[str, list[tuple[int, LayerCall]]] = {}
    after: list[tuple[nn.Module, Any, Any]] = []

    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        after.append((module, args[0] if args else None, first(output)))
        for name, number in owners.get(module, ()):
            call = LayerCall(args, dict(kwargs), first(output))
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


def _is_chain(model: PreTrainedModel, name: str, run: list[tuple[int, LayerCall]]) -> bool:
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
