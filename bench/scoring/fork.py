"""One forward of a model for all its variants.

A variant is the model without some layers and with some other weights. Up to its first difference it has
the states of the model itself, and of every variant that differs later: the layers of all variants are a
trie, and each of its branches is run once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bench.scoring.trees import TreeBatch
from replaceme.decoder import Call, Decoder, first, replace_forwards
from replaceme.edit import Edit, list_changed

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

CPU_LOGITS, GPU_LOGITS = 2**23, 2**27  # logits that are held at once
FULL, SLIDING = "full_attention", "sliding_attention"


class Answer(NamedTuple):
    """What lm-eval wants to know of a request: Σ log p of the targets in nats, and whether each of them
    is the likeliest token."""

    loglikelihood: float
    greedy: bool


class Step(NamedTuple):
    """A layer on a variant's way.

    Attributes:
        weights: the variant whose weights the layer has; ``None``: the model's own.
    """

    layer: int
    weights: str | None


Changes = dict[Step, list[tuple["nn.Parameter", Tensor]]]
Unedited = Callable[[int, str, "nn.Parameter"], Tensor]


@dataclass(frozen=True)
class Fork:
    """A loaded model and its variants.

    Attributes:
        routes: variant → its layers.
        changed: the parameters that a step replaces, with the values it gives them.
    """

    decoder: Decoder
    routes: dict[str, list[Step]]
    changed: Changes

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
        return cls(decoder, routes, changed)

    def only(self, names: list[str]) -> Fork:
        """The same with some of the variants."""
        return Fork(self.decoder, {name: self.routes[name] for name in names}, self.changed)

    def changes(self, name: str) -> list[tuple[nn.Parameter, Tensor]]:
        """The parameters that a variant replaces, with the values it gives them."""
        return [
            change for step, found in self.changed.items() if step.weights == name for change in found
        ]

    @property
    def steps(self) -> int:
        """Layers run for each token, those that variants share once."""
        return len({tuple(way[:i]) for way in self.routes.values() for i in range(1, len(way) + 1)})

    @torch.no_grad()
    def answers(self, batch: TreeBatch) -> dict[str, list[Answer]]:
        """Variant → the answers to the requests of a batch, in their order."""
        states, calls = self.decoder.enter(batch)
        self._window(batch, calls)
        nodes = batch.heads[0]
        ends = self._walk(states, calls, nodes, [*self.routes], 0)
        return {name: self._read(batch, _at(nodes, end)) for name, end in ends}

    def _walk(
        self, states: Tensor, calls: list[Call], nodes: Tensor, names: list[str], done: int
    ) -> Iterator[tuple[str, Tensor]]:
        """(variant, its last states) of variants that have had the same ``done`` layers.

        Only those of ``nodes`` are right: the MLP of a last layer is not run for the others.
        """
        while True:
            groups: dict[Step, list[str]] = {}
            for name in names:
                if done == len(self.routes[name]):
                    yield name, states
                else:
                    groups.setdefault(self.routes[name][done], []).append(name)
            if not groups:
                return
            done += 1
            after = self._steps([*groups], states, calls, nodes)
            *others, (step, names) = groups.items()
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
                stack.enter_context(replaced(changes))
                if step.layer in memos:
                    stack.enter_context(memos[step.layer].reused(parameter for parameter, _ in changes))
                elif step.layer == last:
                    mlp = self.decoder.mlp_block(step.layer)
                    run = partial(_run_at, mlp.forward, nodes)
                    stack.enter_context(replace_forwards([mlp], run))
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

    def _read(self, batch: TreeBatch, heads: Tensor) -> list[Answer]:
        """Answers from the last states of the nodes that predict something, [heads, d].

        Rounded as lm-eval rounds: the log-probabilities and their sum are of the dtype of the logits.
        """
        which = batch.heads[1].to(heads.device)
        targets = batch.targets.to(heads.device)
        logs = torch.empty(len(targets), dtype=heads.dtype, device=heads.device)
        likeliest = torch.empty(len(targets), dtype=torch.bool, device=heads.device)
        held = CPU_LOGITS if heads.device.type == "cpu" else GPU_LOGITS
        size = max(1, held // self.decoder.model.config.get_text_config().vocab_size)
        for start in range(0, len(heads), size):
            here = (which >= start) & (which < start + size)
            table = self.decoder.logits(heads[start : start + size, None])[:, 0].log_softmax(-1)
            rows, goals = which[here] - start, targets[here]
            logs[here] = table[rows, goals]
            likeliest[here] = _likeliest(table, rows, goals)
        sums = torch.zeros(len(batch.requests), dtype=torch.float64)
        missed = torch.zeros_like(sums).index_add_(0, batch.owners, (~likeliest).cpu().double())
        sums.index_add_(0, batch.owners, logs.cpu().double())
        return [
            Answer(total, wrong == 0)
            for total, wrong in zip(sums.to(logs.dtype).tolist(), missed.tolist(), strict=True)
        ]


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


def _run_at(forward: Callable[..., Any], nodes: Tensor, states: Tensor) -> Any:
    """A module that treats every token by itself, run at some nodes; the rest is 0."""
    chosen = _at(nodes, states)
    output = forward(chosen[None] if states.ndim == 3 else chosen)
    found = first(output)
    out = found.new_zeros(states.shape[:-1].numel(), found.shape[-1])
    out[nodes.to(out.device)] = found.reshape(len(nodes), -1)
    out = out.view(*states.shape[:-1], -1)
    return (out, *output[1:]) if isinstance(output, tuple) else out


def sliding_window(config: PreTrainedConfig) -> int | None:
    """How many tokens a layer with sliding-window attention sees, if a model has such layers."""
    return config.sliding_window if SLIDING in attention_kinds(config) else None


def attention_kinds(config: PreTrainedConfig) -> list[str]:
    """The kind of attention of each layer, in the names of transformers."""
    kinds = getattr(config, "layer_types", None)
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return kinds or [SLIDING if windowed else FULL] * config.num_hidden_layers


def obstacle(model: PreTrainedModel) -> str | None:
    """Why the variants of a model cannot be forked exactly, or ``None`` where they can."""
    if not type(model).__module__.startswith("transformers."):
        return "its class is not part of transformers, and may not take masks of trees"
    if getattr(model.config, "alibi", False):
        return "its ALiBi counts places in the sequence, not in the request"
    if unknown := {*attention_kinds(model.config)} - {FULL, SLIDING}:
        return f"its layers have {' and '.join(sorted(unknown))}"
    return None


def _likeliest(table: Tensor, rows: Tensor, goals: Tensor) -> Tensor:
    """Whether the goal is the argmax of its row.

    Of equal entries the first is; in half precision, where rounding makes many equal, that is looked up.
    """
    found = table[rows, goals] == table.amax(-1)[rows]
    if table.dtype != torch.float32:
        (at,) = found.nonzero(as_tuple=True)
        found[at] = table[rows[at]].argmax(-1) == goals[at]
    return found


@contextmanager
def replaced(changes: list[tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
    """Parameters with other values for as long as the context lasts."""
    own = [parameter.data for parameter, _ in changes]
    try:
        for parameter, values in changes:
            parameter.data = values
        yield
    finally:
        for (parameter, _), values in zip(changes, own, strict=True):
            parameter.data = values
