"""What scoring a plan will take: tokens from its requests, seconds from a layer that is run here.

No weights are loaded or downloaded; the layer has random ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoTokenizer

from bench.records import Record
from bench.run.costs import ENGINE
from bench.run.resume import list_tasks_left
from bench.run.sizes import WRITING, count_shared
from bench.run.stand_in import build_stand_in
from bench.scoring.answering import AnsweringLM
from bench.scoring.answers import Answers
from bench.scoring.fork import Fork, Step, count_steps
from bench.scoring.sweep import Sweep
from bench.scoring.tasks import PreparedTask
from bench.scoring.trees import Request, Tree, TreeBatch
from bench.store import Store
from bench.suite.matrix import Cell, Plan
from bench.suite.suite import ModelSpec
from bench.tasks.planned import PlannedTask
from replaceme.architectures import layer_count, pruned_config
from replaceme.decoder import Decoder
from replaceme.io import loading, models
from replaceme.selection import Block

if TYPE_CHECKING:
    from torch import Tensor

HEADS = 128  # predictions that the output matrix is timed with


@dataclass(frozen=True)
class Estimate:
    """What a task takes for the variants that lack it, in one pass and for their texts.

    Attributes:
        requests: distinct ones.
        tokens: that the model reads for them.
        token_layers: tokens times the layers that the variants do not share.
        predictions: tokens whose logits are needed, times variants.
        seconds: on this machine.
        texts: that each variant writes.
        written: tokens of them at most.
    """

    model: str
    task: str
    variants: int
    requests: int
    tokens: int
    token_layers: int
    predictions: int
    seconds: float
    texts: int = 0
    written: int = 0


def estimate(plan: Plan, out: Path, say: Callable[[str], None]) -> list[Estimate]:
    """An estimate for each model and task of which something is left to score.

    Blocks that are not chosen yet are taken to lie in the middle.

    Raises:
        InputError: a model cannot be had.
    """
    store = Store(out)
    prepared: dict[tuple[PlannedTask, ModelSpec | None], PreparedTask] = {}
    found = []
    for model in plan.suite.models:
        records = {cell: store.read(cell.stem) for cell in plan.cells if cell.model == model}
        layer = None
        for task in plan.tasks:
            lacking = {
                cell: record for cell, record in records.items() if list_tasks_left(record, [task])
            }
            if not lacking:
                continue
            layer = layer or _OneLayer.of(plan, model)
            key = (task, model if task.spec.apply_chat_template else None)
            if key not in prepared:
                prepared[key] = PreparedTask.of(task, layer.lm)
            say(f"{model.name}: {task.spec.task}")
            found.append(layer.estimate(task, prepared[key], lacking))
    return found


@dataclass(frozen=True)
class _OneLayer:
    """The first layer of a model, with its embeddings and output matrix."""

    config: dict[str, Any]
    lm: AnsweringLM
    sweep: Sweep

    @classmethod
    def of(cls, plan: Plan, model: ModelSpec) -> _OneLayer:
        assert plan.suite.score is not None
        device = plan.suite.device or loading.default_device()
        source: str | Path = model.id
        if not models.is_hub_id(model.id):
            source = models.known_folder(model.id) or models.locate(model.id)
        named = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
        config = AutoConfig.from_pretrained(source, **named)
        whole = config.to_dict()
        found = source if isinstance(source, Path) else None
        own = loading.checkpoint_dtype(found) if found else loading.declared_dtype(whole)
        dtype = plan.suite.score.dtype or loading.fast_dtype(model.dtype or own or "float32", device)
        small = type(config).from_dict(pruned_config(whole, [0]))
        layer = build_stand_in(
            small,
            getattr(torch, dtype),
            "cuda" if device == "auto" else device,
            model.trust_remote_code,
        )
        lm = AnsweringLM(layer, tokenizer=AutoTokenizer.from_pretrained(source, **named), batch_size=1)
        return cls(whole, lm, Sweep(Fork(Decoder.of(layer), {}, {}), Answers()))

    def estimate(
        self, task: PlannedTask, prepared: PreparedTask, cells: dict[Cell, Record | None]
    ) -> Estimate:
        requests = self.lm.requests(prepared.instances)
        asked = [self.lm.tok_encode(prompt) for prompt, _ in prepared.texts_asked]
        prompts = [len(tokens) for tokens in asked]
        written = prepared.count_written(self.lm.max_gen_toks)
        trees = self.sweep.trees(requests)
        routes = [
            [Step(i, None) for i in range(layer_count(self.config))],
            *self._routes(cells).values(),
        ]
        steps, ends = count_steps(routes), len({tuple(route) for route in routes})
        tokens = sum(map(len, trees))
        predictions = sum(len(TreeBatch([tree]).heads[0]) for tree in trees) * ends
        per_token, per_prediction = self._seconds(trees or [_line(max(1, *prompts))])
        layers = sum(layer_count(self.config) - cell.layers for cell in cells)
        seconds = tokens * steps * per_token + predictions * per_prediction
        if prompts:
            read = sum(prompts) - (len(prompts) - 1) * count_shared(asked)
            seconds += (read + WRITING * written) * layers * per_token
            seconds += ENGINE * len({cell.layers for cell in cells})
        return Estimate(
            next(iter(cells)).model.name,
            task.spec.task,
            len(cells),
            len(set(requests)),
            tokens + sum(prompts),
            tokens * steps + sum(prompts) * layers,
            predictions,
            seconds,
            len(prompts),
            written,
        )

    def _routes(self, cells: dict[Cell, Record | None]) -> dict[str, list[Step]]:
        routes = {}
        layers = layer_count(self.config)
        for cell, record in cells.items():
            blocks = [Block(*block) for block in record.prune.blocks] if record and record.prune else []
            if cell.solver and not blocks:
                start = (layers - cell.layers) // 2
                blocks = [Block(start, start + cell.layers)]
            kept = [i for i in range(layers) if not any(b.start <= i < b.end for b in blocks)]
            changed = cell.solver is not None and (cell.solver.solver.fits or bool(cell.heal))
            first = blocks[0].start - 1 if changed else layers
            routes[cell.stem] = [Step(i, cell.stem if i == first else None) for i in kept]
        return routes

    def _seconds(self, trees: list[Tree]) -> tuple[float, float]:
        """Of a token in a layer, and of a prediction."""
        budget = self.sweep.measure_budget(trees)
        decoder = self.sweep.fork.decoder
        usual = sorted(trees, key=len)[len(trees) // 2]
        rows = [usual] * max(1, budget // len(usual))
        layer = self.sweep.layer_seconds(rows) / (len(rows) * len(usual))
        states: Tensor = decoder.enter(TreeBatch([_line(HEADS)]))[0].transpose(0, 1)
        decoder.logits(states)
        start = time.perf_counter()
        float(decoder.logits(states).log_softmax(-1).amax(-1)[0])
        return layer, (time.perf_counter() - start) / HEADS


def _line(tokens: int) -> Tree:
    tree = Tree()
    tree.add(Request((0,) * tokens, (0,)))
    return tree
