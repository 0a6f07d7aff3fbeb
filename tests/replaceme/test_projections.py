"""Refit and reconstruct against a plain computation that edits a copy of the model step by step."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import replaceme
from replaceme.calibration import Batches
from replaceme.edit import apply
from replaceme.fitting import Fit
from replaceme.selection import Block
from replaceme.solvers import Reconstruct, Refit, Solver
from tests.families import measured

Sequences = list[list[int]]
Make = Callable[..., Any]


@dataclass(frozen=True)
class Layout:
    """Where a model keeps what the test reads and changes.

    Attributes:
        between: the module of a layer whose input is the residual stream after the attention; ``None``
            where attention and MLP are parallel.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    layers: str = "model.layers"
    attention: str = "self_attn.o_proj"
    mlp: str = "mlp.down_proj"
    between: str | None = "post_attention_layernorm"
    input_major: bool = False
    multiplier: float = 1.0


LAYOUTS = {
    "llama": Layout({"mlp_bias": True}),
    "qwen3": Layout(),
    "granite": Layout({"residual_multiplier": 0.4, "attention_bias": True}, multiplier=0.4),
    "gpt2": Layout({"n_inner": 96}, "transformer.h", "attn.c_proj", "mlp.c_proj", "ln_2", True),
    "phi": Layout({}, "model.layers", "self_attn.dense", "mlp.fc2", None),
}


class Read(NamedTuple):
    """What to note of a module's calls: its first input, or its output."""

    module: Any
    of_input: bool = True


@torch.no_grad()
def read(model: Any, sequences: Sequences, *reads: Read) -> list[Tensor]:
    """[tokens, …] float64 for each read, of sequences that are run alone."""
    seen: list[list[Tensor]] = [[] for _ in reads]

    def keep(place: list[Tensor], states: Any) -> None:
        place.append((states[0] if isinstance(states, tuple) else states)[0].double())

    handles = [
        one.module.register_forward_pre_hook(lambda _m, args, place=place: keep(place, args))
        if one.of_input
        else one.module.register_forward_hook(lambda _m, _a, out, place=place: keep(place, out))
        for one, place in zip(reads, seen, strict=True)
    ]
    for ids in sequences:
        model(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return [torch.cat(place) for place in seen]


class ByHand:
    """The original, and a copy without the blocks, whose projections are corrected one by one."""

    def __init__(
        self, model: Any, layout: Layout, blocks: tuple[Block, ...], sequences: Sequences
    ) -> None:
        self.layout, self.sequences, self.model = layout, sequences, model
        self.pruned = deepcopy(model)
        whole = model.get_submodule(layout.layers)
        gone = {i for block in blocks for i in range(*block)}
        self.ends = {block.start - 1: block.end for block in blocks}
        self.kept = [i for i in range(len(whole)) if i not in gone]
        copied = self.pruned.get_submodule(layout.layers)
        self.original, self.copies = dict(enumerate(whole)), {i: copied[i] for i in self.kept}
        for i in sorted(gone, reverse=True):
            del copied[i]

    def correct(self, layer: int, paths: list[str], goal: Read, state: Read, ridge: float) -> None:
        """Solve for projections of one layer so that ``state`` of the copy becomes ``goal``."""
        modules = [self.copies[layer].get_submodule(path) for path in paths]
        (target,) = read(self.model, self.sequences, goal)
        now, *inputs = read(self.pruned, self.sequences, state, *map(Read, modules))
        parts = [
            torch.cat([x, torch.ones(len(x), 1)], dim=1) if module.bias is not None else x
            for x, module in zip(inputs, modules, strict=True)
        ]
        scale = (target.norm(dim=1, keepdim=True) * now.norm(dim=1, keepdim=True)) ** -0.5
        rows = self.layout.multiplier * torch.cat(parts, dim=1) * scale
        pull = (ridge * rows.square().sum(0).median()).sqrt() * torch.eye(rows.shape[1])
        wanted = torch.cat([(target - now) * scale, torch.zeros(len(pull), now.shape[1])])
        found = torch.linalg.lstsq(torch.cat([rows, pull.double()]), wanted).solution
        for module, change in zip(modules, found.split([p.shape[1] for p in parts]), strict=True):
            if module.bias is not None:
                module.bias.data += change[-1].float()
                change = change[:-1]
            module.weight.data += (change if self.layout.input_major else change.mT).float()

    def correct_attention(self, layer: int, ridge: float) -> None:
        assert self.layout.between
        goal, state = (
            Read(layers[layer].get_submodule(self.layout.between))
            for layers in (self.original, self.copies)
        )
        self.correct(layer, [self.layout.attention], goal, state, ridge)

    def correct_output(self, layer: int, ridge: float, jointly: bool = False) -> None:
        """Toward the original's state where the copy's next layer takes over."""
        goal = Read(self.original[self.ends.get(layer, layer + 1) - 1], of_input=False)
        paths = [self.layout.attention] * jointly + [self.layout.mlp]
        self.correct(layer, paths, goal, Read(self.copies[layer], of_input=False), ridge)

    def correct_all(self, ridge: float, cut_ridge: float) -> None:
        first = min(self.ends)
        self.correct_output(first, cut_ridge)
        for layer in self.kept:
            if layer > first:
                if self.layout.between:
                    self.correct_attention(layer, ridge)
                self.correct_output(layer, ridge, jointly=self.layout.between is None)

    def check(self, weights: dict[tuple[int, str], Tensor], tolerance: float = 1e-3) -> None:
        """The weights are those of the copy, and all that differ from the original."""
        changed = {
            (i, name): (p.data, self.original[i].get_parameter(name).data)
            for i, layer in self.copies.items()
            for name, p in layer.named_parameters()
            if not torch.equal(p, self.original[i].get_parameter(name))
        }
        assert weights.keys() == changed.keys()
        for key, (wanted, before) in changed.items():
            error = (weights[key].double() - wanted.double()).norm()
            assert error < tolerance * (wanted.double() - before.double()).norm(), key


@pytest.fixture(scope="module", params=LAYOUTS)
def model_type(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(make_model: Make, model_type: str) -> Any:
    """Six layers; biases are random too. Tests do not change it."""
    made = make_model(model_type, num_hidden_layers=6, **LAYOUTS[model_type].settings)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            parameter.data += 0.2 * torch.randn_like(parameter)
    return made


@pytest.fixture(scope="module")
def few(sequences: Sequences) -> Sequences:
    return sequences[8:24]


def fitted(model: Any, sequences: Sequences, solver: Solver, *blocks: Block) -> Fit:
    batches = Batches(sequences, 4)
    calibration = replaceme.calibrate(
        model, batches, blocks=[blocks], solvers=[solver], held_back_tokens=0
    )
    return replaceme.fit(solver, calibration, blocks)


@pytest.mark.parametrize("ridge", [0.01, 1.0])
@pytest.mark.parametrize("block", [Block(1, 3), Block(3, 6)], ids=str)
def test_refit_is_the_penalised_least_squares_solution(
    model: Any, model_type: str, few: Sequences, block: Block, ridge: float
) -> None:
    found = fitted(model, few, Refit(ridge=ridge), block)
    wanted = ByHand(model, LAYOUTS[model_type], (block,), few)
    wanted.correct_output(block.start - 1, ridge)
    wanted.check(found.edit.weights)
    assert found.edit.blocks == (block,)
    assert not found.edit.transforms
    assert found.warning is None


def test_refit_of_two_blocks_fits_each_to_the_intact_states(model: Any, few: Sequences) -> None:
    blocks = (Block(1, 2), Block(4, 6))
    found = fitted(model, few, Refit(ridge=0.1), *blocks)
    alone = [fitted(model, few, Refit(ridge=0.1), block) for block in blocks]
    assert found.edit.weights.keys() == alone[0].edit.weights.keys() | alone[1].edit.weights.keys()
    for single in alone:
        for key, values in single.edit.weights.items():
            assert torch.equal(found.edit.weights[key], values)


@pytest.mark.parametrize(
    "blocks",
    [(Block(2, 4),), (Block(1, 2), Block(4, 5)), (Block(1, 3), Block(4, 6)), (Block(4, 6),)],
    ids=str,
)
def test_reconstruct_corrects_one_projection_after_the_other(
    model: Any, model_type: str, few: Sequences, blocks: tuple[Block, ...]
) -> None:
    found = fitted(model, few, Reconstruct(ridge=0.5, cut_ridge=0.05), *blocks)
    wanted = ByHand(model, LAYOUTS[model_type], blocks, few)
    wanted.correct_all(0.5, 0.05)
    wanted.check(found.edit.weights)
    assert found.edit.blocks == blocks


def test_reconstruct_walks_with_no_more_tokens_than_asked_for(llama: Any, few: Sequences) -> None:
    for tokens in (150, 200):
        found = fitted(llama, few, Reconstruct(tokens=tokens), Block(4, 6))
        assert tokens - max(map(len, few)) < found.notes["tokens"] <= tokens
    assert fitted(llama, few, Reconstruct(tokens=1), Block(4, 6)).notes["tokens"] == len(few[0])


def test_reconstruct_comes_closer_to_the_original_than_refit(llama: Any, few: Sequences) -> None:
    """At the last layer's output."""
    block, layers = Block(2, 4), llama.model.layers
    (wanted,) = read(llama, few, Read(layers[-1], of_input=False))
    errors = []
    for solver in (Refit(ridge=0.05), Reconstruct(ridge=0.05)):
        pruned = deepcopy(llama)
        apply(pruned, measured(pruned), fitted(llama, few, solver, block).edit)
        (got,) = read(pruned, few, Read(pruned.model.layers[-1], of_input=False))
        errors.append(float((got - wanted).norm() / wanted.norm()))
    assert errors[1] < 0.9 * errors[0]


def hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("solver", [Refit(), Reconstruct()], ids=repr)
def test_model_is_as_before_after_a_solve(llama: Any, few: Sequences, solver: Solver) -> None:
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    layers, before_hooks = list(llama.model.layers), hooks(llama)
    fitted(llama, few, solver, Block(2, 4))
    assert list(llama.model.layers) == layers
    assert hooks(llama) == before_hooks
    assert all(torch.equal(t, before[name]) for name, t in llama.state_dict().items())
