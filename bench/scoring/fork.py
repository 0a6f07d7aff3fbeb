"""One forward of a model for all its variants.

A variant is the model without some layers and with some other weights. Up to its first difference it has
the states of the model itself, and of every variant that differs later: the layers of all variants are a
trie, and each of its branches is run once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bench.scoring.heads import Answer, Outside, read_answers
from bench.scoring.trees import TreeBatch
from replaceme.architectures import layer_count
from replaceme.decoder import Call, Decoder
from replaceme.edit import Edit, list_changed, list_outside
from replaceme.hooks import first, other_values, replace_forwards

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

FULL, SLIDING = "full_attention", "sliding_attention"


class Step(NamedTuple):
    """A layer on a variant's way.

    Attributes:
        weights: the variant whose weights the layer has; ``None``: the model's own.
    """

    layer: int
    weights: str | None


Routes = dict[str | None, list[Step]]  # ``None``: the intact model
Changes = dict[Step, list[tuple["nn.Parameter", Tensor]]]
Unedited = Callable[[int, str, "nn.Parameter"], Tensor]


@dataclass(frozen=True)
class Fork:
    """A loaded model and its variants.

    Attributes:
        routes: variant → its layers.
        changed: the parameters that a step replaces, with the values it gives them.
        outside: variant → the parameters behind the layers that it replaces, with their values.
    """

    decoder: Decoder
    routes: dict[str, list[Step]]
    changed: Changes
    outside: Outside = field(default_factory=dict)

    @classmethod
    def of(cls, decoder: Decoder, edits: Mapping[str, Edit], unedited: Unedited) -> Fork:
        """The variants that edits make.

        Args:
            unedited: what a checkpoint would hold of a parameter without its edit, in the dtype that
                it is saved in.
        """
        routes: dict[str, list[Step]] = {}
        changed: Changes = {}
        model, architecture = decoder.model, decoder.architecture
        for name, edit in edits.items():
            for layer, tensor, parameter in list_changed(model, architecture, edit):
                before = unedited(layer, tensor, parameter)
                values = edit.changed(architecture, layer, tensor, before).to(parameter.dtype)
                changed.setdefault(Step(layer, name), []).append((parameter, values))
            own = {step.layer for step in changed if step.weights == name}
            kept = edit.kept(len(decoder.layers))
            routes[name] = [Step(layer, name if layer in own else None) for layer in kept]
        outside = {name: list_outside(model, edit) for name, edit in edits.items() if edit.outside}
        return cls(decoder, routes, changed, outside)

    def only(self, names: list[str]) -> Fork:
        """The same with some of the variants."""
        routes = {name: self.routes[name] for name in names}
        return Fork(self.decoder, routes, self.changed, self.outside)

    def changes(self, name: str) -> list[tuple[nn.Parameter, Tensor]]:
        """The parameters that a variant replaces, with the values it gives them."""
        own = [found for step, found in self.changed.items() if step.weights == name]
        return [change for found in [*own, self.outside.get(name, [])] for change in found]

    @property
    def all_routes(self) -> Routes:
        """Those of the variants, and that of the intact model, from which they are told apart."""
        intact: Routes = {None: [Step(layer, None) for layer in range(len(self.decoder.layers))]}
        return intact | self.routes

    @property
    def steps(self) -> int:
        """Layers run for each token, those that variants share once."""
        return count_steps(self.all_routes.values())

    @property
    def ends(self) -> int:
        """Different last states that each predicting token has."""
        return len({tuple(route) for route in self.all_routes.values()})

    @torch.no_grad()
    def answers(self, batch: TreeBatch) -> dict[str, list[Answer]]:
        """Variant → the answers to the requests of a batch, in their order."""
        states, calls = self.decoder.enter(batch)
        self._window(batch, calls)
        nodes = batch.heads[0]
        walk = self._walk(states, calls, nodes, self.all_routes, 0)
        ends = {name: _at(nodes, end) for name, end in walk}
        own = {name: ends[name] for name in self.routes}
        return read_answers(self.decoder, batch, ends[None], own, self.outside)

    def _walk(
        self, states: Tensor, calls: list[Call], nodes: Tensor, routes: Routes, done: int
    ) -> Iterator[tuple[str | None, Tensor]]:
        """(variant, its last states) of variants that have had the same ``done`` layers.

        Only those of ``nodes`` are right: the MLP of a last layer is not run for the others.
        """
        while True:
            groups: dict[Step, Routes] = {}
            for name, route in routes.items():
                if done == len(route):
                    yield name, states
                else:
                    groups.setdefault(route[done], {})[name] = route
            if not groups:
                return
            done += 1
            after = self._steps([*groups], states, calls, nodes)
            *others, (step, routes) = groups.items()
            for other, members in others:
                yield from self._walk(after.pop(other), calls, nodes, members, done)
            states = after.pop(step)

    def _steps(
        self, steps: list[Step], states: Tensor, calls: list[Call], nodes: Tensor
    ) -> dict[Step, Tensor]:
        """Step → the states after it."""
        after = {}
        last = len(self.decoder.layers) - 1
        layers = [step.layer for step in steps if step.layer != last]
        memos = {layer: Memo(self.decoder.layers[layer]) for layer in layers if layers.count(layer) > 1}
        for step in steps:
            changes = self.changed.get(step, [])
            with ExitStack() as stack:
                stack.enter_context(other_values(changes))
                if step.layer in memos:
                    stack.enter_context(memos[step.layer].reused(parameter for parameter, _ in changes))
                elif step.layer == last and (block := self.decoder.tokenwise_block(step.layer)):
                    run = partial(_run_at, block.forward, nodes)
                    stack.enter_context(replace_forwards([block], run))
                after[step] = self.decoder.step(step.layer, states, calls[step.layer])
        return after

    def _window(self, batch: TreeBatch, calls: list[Call]) -> None:
        """Mask what a sliding window hides, in the layers that have one."""
        config = self.decoder.model.config
        window = sliding_window(config)
        if window is None or int(batch.positions.max()) < window:
            return
        mask = batch.mask(self.decoder.model.dtype, window)
        for call, kind in zip(calls, attention_kinds(config), strict=True):
            if kind == SLIDING:
                call.kwargs["attention_mask"] = mask.to(call.kwargs["attention_mask"].device)


def count_steps(routes: Iterable[list[Step]]) -> int:
    """Different steps of some routes, those that they begin with alike once."""
    return len({tuple(route[:i]) for route in routes for i in range(1, len(route) + 1)})


class Memo:
    """What the modules of a layer return, for running it again on the same states with other weights."""

    def __init__(self, layer: nn.Module) -> None:
        leaves = (module for module in layer.modules() if not any(module.children()))
        self._modules = [module for module in leaves if list(module.parameters())]
        self._returned: dict[nn.Module, Any] = {}
        self._changed: set[int] = set()

    @contextmanager
    def reused(self, changed: Iterable[nn.Parameter]) -> Iterator[None]:
        """The first time, keep what modules return; then have all modules before the first with changed
        weights return it again."""
        self._changed |= {id(parameter) for parameter in changed}
        same = takewhile(lambda module: not self._touched(module), self._returned)
        forwards = [(module, self._again(self._returned[module])) for module in same]
        with ExitStack() as stack:
            for module, forward in forwards:
                stack.enter_context(replace_forwards([module], forward))
            for module in self._modules:
                stack.callback(module.register_forward_hook(self._keep).remove)
            yield

    def _touched(self, module: nn.Module) -> bool:
        return any(id(parameter) in self._changed for parameter in module.parameters())

    def _keep(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        self._returned.setdefault(module, output)

    @staticmethod
    def _again(output: Any) -> Callable[..., Any]:
        return lambda *_, **__: output


def _at(nodes: Tensor, states: Tensor) -> Tensor:
    """States of some nodes, [nodes, d]."""
    return states.reshape(-1, states.shape[-1])[nodes.to(states.device)]


def _run_at(forward: Callable[..., Any], nodes: Tensor, states: Tensor, *others: Any) -> Any:
    """A module that treats every token by itself, run at some nodes; the rest is 0.

    One that is called with more than the states is run whole.
    """
    if others:
        return forward(states, *others)
    chosen = _at(nodes, states)
    output = forward(chosen[None] if states.ndim == 3 else chosen)
    found = first(output)
    out = found.new_zeros(states.shape[:-1].numel(), found.shape[-1])
    out[nodes.to(out.device)] = found.reshape(len(nodes), -1)
    out = out.view(*states.shape[:-1], -1)
    return (out, *output[1:]) if isinstance(output, tuple) else out


def sliding_window(config: PreTrainedConfig) -> int | None:
    """How many tokens a layer with sliding-window attention sees, if a model has such layers."""
    return config.get_text_config().sliding_window if SLIDING in attention_kinds(config) else None


def attention_kinds(config: PreTrainedConfig) -> list[str]:
    """The kind of attention of each layer, in the names of transformers."""
    config = config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return kinds or [SLIDING if windowed else FULL] * layer_count(config.to_dict())
