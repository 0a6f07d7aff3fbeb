"""One forward of a model for all its variants.

A variant is the model without some layers and with some other weights. Up to its first difference it has
the states of the model itself, and of every variant that differs later: the layers of all variants are a
trie, and each of its branches is run once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from bench.scoring.trees import TreeBatch
from replaceme.decoder import Call, Decoder
from replaceme.surgery import Edit, changed_parameters

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
    def of(cls, decoder: Decoder, edits: Mapping[str, Edit], dtype: torch.dtype) -> Fork:
        """The variants that edits make.

        Args:
            dtype: of the checkpoints, to which changed weights are rounded.
        """
        routes: dict[str, list[Step]] = {}
        changed: Changes = {}
        model, architecture = decoder.model, decoder.architecture
        for name, edit in edits.items():
            for layer, tensor, parameter in changed_parameters(model, architecture, edit):
                values = edit.changed(architecture, layer, tensor, parameter.data.to(dtype))
                changed.setdefault(Step(layer, name), []).append((parameter, values.to(parameter.dtype)))
            own = {step.layer for step in changed if step.weights == name}
            kept = edit.kept(len(decoder.layers))
            routes[name] = [Step(layer, name if layer in own else None) for layer in kept]
        return cls(decoder, routes, changed)

    def only(self, names: list[str]) -> Fork:
        """The same with some of the variants."""
        return Fork(self.decoder, {name: self.routes[name] for name in names}, self.changed)

    @property
    def steps(self) -> int:
        """Layers run for each token, those that variants share once."""
        return len({tuple(way[:i]) for way in self.routes.values() for i in range(1, len(way) + 1)})

    @torch.no_grad()
    def answers(self, batch: TreeBatch) -> dict[str, list[Answer]]:
        """Variant → the answers to the requests of a batch, in their order."""
        states, calls = self.decoder.enter(batch)
        self._window(batch, calls)
        return {
            name: self._read(batch, end) for name, end in self._walk(states, calls, [*self.routes], 0)
        }

    def _walk(
        self, states: Tensor, calls: list[Call], names: list[str], done: int
    ) -> Iterator[tuple[str, Tensor]]:
        """(variant, its last states) of variants that have had the same ``done`` layers."""
        while True:
            groups: dict[Step, list[str]] = {}
            for name in names:
                if done == len(self.routes[name]):
                    yield name, states
                else:
                    groups.setdefault(self.routes[name][done], []).append(name)
            if not groups:
                return
            *others, (step, names) = groups.items()
            for other, members in others:
                yield from self._walk(self._step(other, states, calls), calls, members, done + 1)
            states, done = self._step(step, states, calls), done + 1

    def _step(self, step: Step, states: Tensor, calls: list[Call]) -> Tensor:
        with replaced(self.changed.get(step, [])):
            return self.decoder.step(step.layer, states, calls[step.layer])

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

    def _read(self, batch: TreeBatch, states: Tensor) -> list[Answer]:
        """Answers from the states after the last layer [trees, tokens, d].

        Rounded as lm-eval rounds: the log-probabilities and their sum are of the dtype of the logits.
        """
        nodes, which = (index.to(states.device) for index in batch.heads)
        heads = states.flatten(0, 1)[nodes]
        targets = batch.targets.to(states.device)
        logs = torch.empty(len(targets), dtype=states.dtype, device=states.device)
        likeliest = torch.empty(len(targets), dtype=torch.bool, device=states.device)
        held = CPU_LOGITS if states.device.type == "cpu" else GPU_LOGITS
        size = max(1, held // self.decoder.model.config.get_text_config().vocab_size)
        for start in range(0, len(heads), size):
            here = (which >= start) & (which < start + size)
            table = self.decoder.logits(heads[start : start + size, None])[:, 0].log_softmax(-1)
            rows, goals = which[here] - start, targets[here]
            logs[here] = table[rows, goals]
            likeliest[here] = _likeliest(table, rows, goals)
        owners = batch.owners.to(states.device)
        sums = torch.zeros(len(batch.requests), device=states.device)
        sums.index_add_(0, owners, logs.float())
        missed = torch.zeros_like(sums).index_add_(0, owners, (~likeliest).float())
        return [
            Answer(total, wrong == 0)
            for total, wrong in zip(sums.to(logs.dtype).tolist(), missed.tolist(), strict=True)
        ]


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
    """Whether the goal is the argmax of its row; of equal entries the first is."""
    found = table[rows, goals] == table.amax(-1)[rows]
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
