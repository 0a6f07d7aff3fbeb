"""Refit and reconstruct where the outputs of the projections pass a norm before they are added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import replaceme
from replaceme.calibration import Batch, Batches
from replaceme.decoder import Decoder
from replaceme.edit import apply
from replaceme.fitting import Fit
from replaceme.selection import Block
from replaceme.solvers import Solver, make_solver, normed
from replaceme.solvers.normed import NormedFit
from replaceme.surgery import write_checkpoint
from tests.families import last_states, measured

pytestmark = pytest.mark.slow

Make = Callable[..., Any]
Sequences = list[list[int]]
BLOCK = Block(2, 4)
SOLVERS = ("refit", "reconstruct")


@dataclass(frozen=True)
class Family:
    """How a family's layers end; ``offset`` is what its norms add to their weight."""

    settings: dict[str, Any]
    attention: str = "post_attention_layernorm"
    mlp: str = "post_feedforward_layernorm"
    offset: float = 0.0
    factor: float = 1.0


FAMILIES = {
    "gemma2": Family({}, offset=1.0),
    "olmo2": Family({}),
    "glm4": Family({}, "post_self_attn_layernorm", "post_mlp_layernorm"),
    "hyperclovax": Family(
        {"use_post_norm": True, "residual_multiplier": 0.4, "mlp_bias": True},
        "post_norm1",
        "post_norm2",
        factor=0.4,
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(make_model: Make, family: str) -> Any:
    """Six layers whose norms and biases are random; tests do not change it."""
    made = make_model(family, num_hidden_layers=6, **FAMILIES[family].settings)
    for parameter in made.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return made


@pytest.fixture(scope="module")
def few(sequences: Sequences) -> Sequences:
    return sequences[8:32]


def fitted(model: Any, sequences: Sequences, solver: Solver, block: Block = BLOCK) -> Fit:
    batches = Batches(sequences, 4)
    calibration = replaceme.calibrate(
        model, batches, blocks=[(block,)], solvers=[solver], held_back_tokens=0
    )
    return replaceme.fit(solver, calibration, (block,))


@dataclass
class Branch:
    """The last branch of a layer, in float64, from what enters its projection."""

    inputs: Tensor
    matrix: Tensor
    gain: Tensor
    factor: float

    @classmethod
    def of(cls, model: Any, family: Family, inputs: Tensor, layer: int = 1) -> Branch:
        projection = model.model.layers[layer].mlp.down_proj
        matrix = projection.weight.data.double().mT
        if projection.bias is not None:
            matrix = torch.cat([matrix, projection.bias.data.double()[None]])
            inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
        norm = model.model.layers[layer].get_submodule(family.mlp)
        return cls(inputs, matrix, norm.weight.data.double() + family.offset, family.factor)

    def adds(self) -> Tensor:
        states = self.inputs @ self.matrix
        mean = states.square().mean(1, keepdim=True)
        return self.factor * self.gain * states / (mean + 1e-6).sqrt()


def read_inputs(decoder: Decoder, batch: Batch, layer: int = 1) -> tuple[Tensor, Tensor]:
    """[sequences, tokens, …]: what enters a layer's last projection, and the state behind the layer."""
    path = decoder.entry(layer)
    reads = {"inputs": decoder.input_of(layer, path), "state": decoder.output(layer)}
    seen = decoder.run(batch, reads, until=layer + 1)
    return seen["inputs"], seen["state"]


def problem(model: Any, family: Family, ridge: float) -> tuple[NormedFit, Branch, Tensor]:
    """A fit toward what another matrix and gain would add, the branch as it is, and as it is to be."""
    decoder = Decoder.of(model)
    chance = torch.Generator().manual_seed(0)
    batch = Batch.of(torch.randint(2, 500, (20, 30), generator=chance).tolist())
    inputs, state = read_inputs(decoder, batch)
    now = Branch.of(model, family, inputs.flatten(0, 1).double())
    noise = torch.randn(now.matrix.shape, generator=chance).double() * now.matrix.std()
    gain = now.gain * (1.5 + 0.5 * torch.rand(len(now.gain), generator=chance))
    wanted = Branch(now.inputs, now.matrix + 0.5 * noise, gain, family.factor).adds()
    goal = state + (wanted - now.adds()).reshape(state.shape).float()
    fit = NormedFit(decoder, 1, "mlp.down_proj", ridge)
    fit.add(batch, {"mlp.down_proj": inputs}, state, goal)
    return fit, now, wanted


def put(branch: Branch, weights: dict[tuple[int, str], Tensor], family: Family) -> Branch:
    matrix = weights[1, "mlp.down_proj.weight"].double().mT
    if (1, "mlp.down_proj.bias") in weights:
        matrix = torch.cat([matrix, weights[1, "mlp.down_proj.bias"].double()[None]])
    gain = weights[1, f"{family.mlp}.weight"].double() + family.offset
    return Branch(branch.inputs, matrix, gain, branch.factor)


def test_another_matrix_and_gain_are_found(
    model: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, now, wanted = problem(model, FAMILIES[family], 1e-6)
    before = float((now.adds() - wanted).norm() / wanted.norm())
    errors = []
    for rounds in (4, 100):
        monkeypatch.setattr(normed, "ROUNDS", rounds)
        found = put(now, fit.solve(), FAMILIES[family])
        errors.append(float((found.adds() - wanted).norm() / wanted.norm()))
    assert before > 0.5
    assert errors[0] < 0.2 * before
    assert errors[1] < 0.01 * before


def test_solution_is_where_the_gradient_vanishes(
    model: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the weighted error with the pull toward the old weights, at targets that nothing reaches."""
    monkeypatch.setattr(normed, "ROUNDS", 200)
    ridge = 0.05
    fit, now, _ = problem(model, FAMILIES[family], ridge)
    chance = torch.Generator().manual_seed(1)
    (rows,) = fit.rows
    aim = rows.wanted + 0.3 * rows.wanted.std() * torch.randn(rows.wanted.shape, generator=chance)
    fit.rows = [rows._replace(wanted=aim)]
    found = put(now, fit.solve(), FAMILIES[family])

    def slope(at: Branch) -> Tensor:
        matrix = at.matrix.clone().requires_grad_()
        error = Branch(at.inputs, matrix, at.gain, at.factor).adds() - aim.double()
        lengths = (at.inputs @ at.matrix).square().mean(1, keepdim=True).sqrt()
        energy = (rows.weight.double() * (at.inputs / lengths).square()).sum(0).median()
        loss = (rows.weight * error.square()).sum() / (at.factor**2 * at.gain.square().mean())
        (loss + ridge * energy * (matrix - now.matrix).square().sum()).backward()
        assert matrix.grad is not None
        return matrix.grad

    start = Branch(now.inputs, now.matrix, found.gain, now.factor)
    assert float(slope(found).norm()) < 0.01 * float(slope(start).norm())
    units = found.adds() / found.gain
    weight = rows.weight.double()
    energy = (weight * units.square()).sum(0)
    pull = (weight * units * (aim - found.adds())).sum(0)
    old = now.gain
    torch.testing.assert_close(found.gain - old, pull / (ridge * energy.median()), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("block", [BLOCK, Block(3, 6)], ids=str)
def test_refit_comes_closer_than_a_diagonal(model: Any, few: Sequences, block: Block) -> None:
    diagonal = fitted(model, few, make_solver("relative", diagonal=True), block)
    whole = fitted(model, few, make_solver("refit"), block)
    assert whole.relative_error[1] < 0.8 * diagonal.relative_error[1]
    assert whole.warning is None


def test_what_is_changed_are_projections_and_the_norms_behind_them(
    model: Any, family: str, few: Sequences
) -> None:
    bias = "mlp.down_proj.bias" in dict(model.model.layers[0].named_parameters())
    ends = {"mlp.down_proj.weight", f"{FAMILIES[family].mlp}.weight"}
    ends |= {"mlp.down_proj.bias"} if bias else set()
    both = ends | {"self_attn.o_proj.weight", f"{FAMILIES[family].attention}.weight"}
    at_gap = {(1, name) for name in ends}
    assert fitted(model, few, make_solver("refit")).edit.weights.keys() == at_gap
    everywhere = at_gap | {(layer, name) for layer in (4, 5) for name in both}
    assert fitted(model, few, make_solver("reconstruct")).edit.weights.keys() == everywhere


@pytest.mark.parametrize("solver", SOLVERS)
def test_pruned_on_disk_is_what_was_fitted(
    model: Any, few: Sequences, tmp_path: Path, solver: str
) -> None:
    """The error that a fit states is that of the checkpoint, loaded again."""
    found = fitted(model, few, make_solver(solver))
    model.save_pretrained(tmp_path / "whole")
    write_checkpoint(tmp_path / "whole", tmp_path / "pruned", found.edit, None)
    again = type(model).from_pretrained(tmp_path / "pruned").eval()
    wanted, got = last_states(model, few, BLOCK.end - 1), last_states(again, few, BLOCK.start - 1)
    error = float((got - wanted).norm() / wanted.norm())
    assert found.relative_error[1] == pytest.approx(error, rel=1e-3)


def test_reconstruct_comes_closer_to_the_original_than_refit(
    make_model: Make, family: str, few: Sequences
) -> None:
    """At the last layer's output."""
    errors = []
    for solver in SOLVERS:
        made = make_model(family, num_hidden_layers=6, **FAMILIES[family].settings)
        wanted = last_states(made, few, 5)
        apply(made, measured(made), fitted(made, few, make_solver(solver)).edit)
        errors.append(float((last_states(made, few, 3) - wanted).norm() / wanted.norm()))
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_model_is_as_before_after_a_solve(model: Any, few: Sequences, solver: str) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fitted(model, few, make_solver(solver))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
