"""One forward of a model for all its variants.

A variant is the model without some layers and with some other weights. Up to its first difference it has
the states of the model itself, and of every variant that differs later: the layers of all variants are a
trie, and each of its branches is run once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from replaceme.edit import Edit, list_changed, list_changed_in, list_outside
from replaceme.hooks import first, other_values, replace_forwards

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

    from replaceme.room import Kept

FULL, SLIDING = "full_attention", "sliding_attention"


class Step(NamedTuple):
    """A layer on a variant's way.

    Attributes:
        weights: the variant whose weights the layer has; ``None``: the model's own.
    """

    layer: int
    weights: str | None


Routes = dict[str | None, list[Step]]  # ``None``: the intact model
Change = tuple["nn.Parameter", Tensor]
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
    changed: Mapping[Step, list[Change]]
    outside: Outside = field(default_factory=dict)

    @classmethod
    def of(cls, decoder: Decoder, edits: Mapping[str, Edit], unedited: Unedited) -> Fork:
        """The variants that edits make.

        Args:
            unedited: what a checkpoint would hold of a parameter without its edit, in the dtype that
                it is saved in.
        """
        changed: Mapping[Step, list[Change]] = Changes(decoder, edits, unedited)
        routes = {
            name: [
                Step(layer, name if Step(layer, name) in changed else None)
                for layer in edit.kept(len(decoder.layers))
            ]
            for name, edit in edits.items()
        }
        outside = {
            name: list_outside(decoder.model, edit) for name, edit in edits.items() if edit.outside
        }
        if decoder.is_resident:
            changed = dict(changed)
        return cls(decoder, routes, changed, outside)

    def only(self, names: list[str]) -> Fork:
        """The same with some of the variants."""
        routes = {name: self.routes[name] for name in names}
        return Fork(self.decoder, routes, self.changed, self.outside)

    def changes(self, name: str) -> list[Change]:
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

    def answers(self, batch: TreeBatch) -> dict[str, list[Answer]]:
        """Variant → the answers to the requests of a batch, in their order."""
        return self.answers_to([batch])[0]

    @torch.no_grad()
    def answers_to(self, batches: Sequence[TreeBatch]) -> list[dict[str, list[Answer]]]:
        """The same for several.

        All batches pass a layer, for all variants that have it, before the next layer is brought.
        """
        streams = [self._enter(batch) for batch in batches]
        ways = {name: {step.layer: step for step in route} for name, route in self.all_routes.items()}
        for layer in range(len(self.decoder.layers)):
            steps = {own[layer] for own in ways.values() if layer in own}
            self.decoder.layer(layer)
            changes = {step: self.changed[step] for step in steps if step in self.changed}
            for stream in streams:
                self._pass(layer, stream, ways, changes)
        return [self._read(stream) for stream in streams]

    def _enter(self, batch: TreeBatch) -> _Stream:
        states, calls = self.decoder.enter(batch)
        self._window(batch, calls)
        return _Stream(batch, calls, [([*self.all_routes], self.decoder.room.put(states))])

    def _pass(
        self,
        layer: int,
        stream: _Stream,
        ways: dict[str | None, dict[int, Step]],
        changes: dict[Step, list[Change]],
    ) -> None:
        """Take a batch through a layer, for the variants that have it; the others wait."""
        branches: list[tuple[list[str | None], Kept]] = []
        while stream.branches:
            names, waiting = stream.branches.pop(0)
            groups: dict[Step | None, list[str | None]] = {}
            for name in names:
                groups.setdefault(ways[name].get(layer), []).append(name)
            if behind := groups.pop(None, None):
                branches.append((behind, waiting))
            states = waiting.read() if groups else None
            del waiting
            if states is not None:
                after = self._steps(layer, [*filter(None, groups)], states, stream, changes)
                del states
                put = self.decoder.room.put
                branches += [(groups[step], put(after.pop(step))) for step in [*after]]
        stream.branches = branches

    def _steps(
        self,
        layer: int,
        steps: list[Step],
        states: Tensor,
        stream: _Stream,
        changes: dict[Step, list[Change]],
    ) -> dict[Step, Tensor]:
        """Step → the states after it.

        Behind the last layer only those of the nodes that predict are right: its MLP is not run for the
        others.
        """
        after = {}
        last = layer == len(self.decoder.layers) - 1
        memo = Memo(self.decoder.layers[layer]) if len(steps) > 1 and not last else None
        for step in steps:
            own = changes.get(step, [])
            with ExitStack() as stack:
                stack.enter_context(other_values(own))
                if memo:
                    stack.enter_context(memo.reused(parameter for parameter, _ in own))
                elif last and (block := self.decoder.tokenwise_block(layer)):
                    run = partial(_run_at, block.forward, stream.batch.heads[0])
                    stack.enter_context(replace_forwards([block], run))
                after[step] = self.decoder.step(layer, states, stream.calls[layer])
        return after

    def _read(self, stream: _Stream) -> dict[str, list[Answer]]:
        nodes = stream.batch.heads[0]
        ends = {
            name: end
            for names, waiting in stream.branches
            for end in [_at(nodes, waiting.read())]
            for name in names
        }
        own = {name: ends[name] for name in self.routes}
        return read_answers(self.decoder, stream.batch, ends[None], own, self.outside)

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


@dataclass
class _Stream:
    """A batch on its way.

    Attributes:
        branches: variants that have had the same steps, with their states.
    """

    batch: TreeBatch
    calls: list[Call]
    branches: list[tuple[list[str | None], Kept]]


class Changes(Mapping[Step, list[Change]]):
    """Step → the parameters that it replaces, with their values, which are computed when asked for."""

    def __init__(self, decoder: Decoder, edits: Mapping[str, Edit], unedited: Unedited) -> None:
        self._decoder, self._edits, self._unedited = decoder, edits, unedited
        found = {
            Step(layer, name): None
            for name, edit in edits.items()
            for layer, _, _ in list_changed(decoder.model, decoder.architecture, edit)
        }
        self._steps = [*found]

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __contains__(self, step: object) -> bool:
        return step in self._steps

    def __getitem__(self, step: Step) -> list[Change]:
        if step not in self._steps:
            raise KeyError(step)
        layer, name = step
        assert name is not None
        self._decoder.layer(layer)
        edit, architecture = self._edits[name], self._decoder.architecture
        found = []
        for tensor, own in list_changed_in(self._decoder.model, architecture, edit, layer):
            before = self._unedited(layer, tensor, own)
            found.append((own, edit.changed(architecture, layer, tensor, before).to(own.dtype)))
        return found


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
