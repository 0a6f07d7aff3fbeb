"""Refit and reconstruct where experts make what a layer adds last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, silu

import replaceme
from replaceme.calibration import Batch, Batches
from replaceme.decoder import Decoder
from replaceme.edit import Edit, apply, edit_temporarily
from replaceme.fitting import Fit
from replaceme.hooks import other_values
from replaceme.io.tensorfile import read_header
from replaceme.selection import Block
from replaceme.solvers import Solver, experts, make_solver
from replaceme.solvers.experts import ExpertsFit
from replaceme.surgery import write_checkpoint
from tests.families import EXPERTS, FAMILIES, GATED, Family, last_states, measured, small

pytestmark = pytest.mark.slow

Sequences = list[list[int]]
BLOCK = Block(4, 5)
BEFORE = BLOCK.start - 1
SOLVERS = ("refit", "reconstruct")
SHARED = {"shared_intermediate_size": 24, "residual_multiplier": 0.4}
ALL = {
    "mixtral": FAMILIES["mixtral"],
    "qwen2_moe": Family(
        "qwen2_moe",
        GATED | EXPERTS | {"shared_expert_intermediate_size": 24, "decoder_sparse_step": 1},
    ),
    "granitemoe": FAMILIES["granitemoe"],
    "granitemoeshared": Family("granitemoeshared", GATED | EXPERTS | SHARED, multiplier=0.4),
    "gpt_oss": FAMILIES["gpt_oss"],
    "deepseek_v3": FAMILIES["deepseek_v3"],
}


def make(family: str, **settings: Any) -> Any:
    return small(ALL[family].model_type, **(ALL[family].settings | settings))


@pytest.fixture(scope="module", params=ALL)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family: str) -> Any:
    """Six layers; tests do not change it."""
    return make(family)


@pytest.fixture(scope="module")
def rows() -> Sequences:
    chance = torch.Generator().manual_seed(1)
    return [torch.randint(2, 500, (20 + i,), generator=chance).tolist() for i in range(24)]


def fitted(model: Any, sequences: Sequences, solver: Solver, block: Block = BLOCK) -> Fit:
    batches = Batches(sequences, 4)
    calibration = replaceme.calibrate(
        model, batches, blocks=[(block,)], solvers=[solver], held_back_tokens=0
    )
    return replaceme.fit(solver, calibration, (block,))


def read_state(decoder: Decoder, batch: Batch) -> Tensor:
    """[tokens, d] behind the layer whose experts are refitted."""
    return decoder.run(batch, {"state": decoder.output(BEFORE)}, until=BLOCK.start)["state"]


def outputs(decoder: Decoder) -> dict[str, torch.nn.Parameter]:
    """The output matrices, and biases, of that layer's experts."""
    own = dict(decoder.layers[BEFORE].named_parameters())
    return {name: own[name] for name in decoder.kind(BEFORE).outputs if name in own}


@torch.no_grad()
def teach(decoder: Decoder, batch: Batch, ridge: float) -> tuple[ExpertsFit, dict[str, Tensor], Tensor]:
    """A fit toward what other expert matrices would make, these, and the state behind them."""
    entry = decoder.entry(BEFORE)
    reads = {entry: decoder.input_of(BEFORE, entry), "state": decoder.output(BEFORE)}
    seen = decoder.run(batch, reads, until=BLOCK.start)
    chance = torch.Generator().manual_seed(2)
    others = {
        name: own.data + 0.5 * own.std() * torch.randn(own.shape, generator=chance)
        for name, own in outputs(decoder).items()
    }
    with other_values((own, others[name]) for name, own in outputs(decoder).items()):
        goal = read_state(decoder, batch)
    fit = ExpertsFit(decoder, BEFORE, ridge)
    fit.add(batch, seen, seen["state"], goal)
    return fit, others, goal


def test_other_matrices_are_found_by_what_they_make(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder.of(model)
    chance = torch.Generator().manual_seed(0)
    batch = Batch.of(torch.randint(2, 500, (40, 60), generator=chance).tolist())
    fit, others, goal = teach(decoder, batch, 1e-6)
    before = float((read_state(decoder, batch) - goal).norm())
    errors = []
    for sweeps in (4, 100):
        monkeypatch.setattr(experts, "SWEEPS", sweeps)
        found = fit.solve()
        with edit_temporarily(model, decoder.architecture, Edit(weights=found)):
            errors.append(float((read_state(decoder, batch) - goal).norm()) / before)
    assert errors[0] < 0.2
    assert errors[1] < 0.01
    for name, own in outputs(decoder).items():
        if "bias" not in name:  # the gates of all experts nearly add up to a constant
            wanted = others[name] - own.data
            assert float((found[BEFORE, name] - others[name]).norm()) < 0.1 * float(wanted.norm())


def gated_by_hand(block: Any, states: Tensor) -> Tensor:
    """[tokens, experts, k]: what each expert of a Mixtral multiplies its matrix with, times its gate."""
    _, gates, chosen = block.gate(states)
    weight = torch.zeros(len(states), len(block.experts.down_proj)).scatter(1, chosen, gates)
    both = [linear(states, matrix).chunk(2, dim=-1) for matrix in block.experts.gate_up_proj]
    return torch.stack([silu(gate) * up for gate, up in both], dim=1) * weight[..., None]


@torch.no_grad()
def test_solution_is_the_ridge_regression_on_all_experts_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At targets that nothing reaches."""
    monkeypatch.setattr(experts, "SWEEPS", 200)
    model, ridge = make("mixtral"), 0.05
    decoder = Decoder.of(model)
    chance = torch.Generator().manual_seed(0)
    batch = Batch.of(torch.randint(2, 500, (20, 30), generator=chance).tolist())
    fit, *_ = teach(decoder, batch, ridge)
    (kept,) = fit.rows
    aim = kept.change + kept.change.std() * torch.randn(kept.change.shape, generator=chance)
    fit.rows = [kept._replace(change=aim)]
    features = gated_by_hand(decoder.layers[BEFORE].mlp, kept.states).double()
    joint = (features * kept.scale[..., None].double()).flatten(1)
    gram = joint.mT @ joint
    gram.diagonal().add_(ridge * gram.diagonal().median())
    change = torch.linalg.solve(gram, joint.mT @ aim.double()).unflatten(0, features.shape[1:])
    own = decoder.layers[BEFORE].mlp.experts.down_proj
    found = fit.solve()[BEFORE, "mlp.experts.down_proj"] - own
    torch.testing.assert_close(found.double(), change.mT, rtol=1e-3, atol=1e-3 * float(change.std()))


@torch.no_grad()
@pytest.mark.parametrize("bias, least, most", [(0.0, 0.6, 1.0), (-3.0, 0.001, 0.4), (-99.0, 0.0, 0.0)])
def test_an_expert_with_few_tokens_stays_nearly_as_it_is(bias: float, least: float, most: float) -> None:
    """How far it moves beside the others; the router's bias takes tokens from it."""
    model, name = make("gpt_oss"), "mlp.experts.down_proj"
    decoder = Decoder.of(model)
    block = decoder.layers[BEFORE].mlp
    block.router.bias.copy_(bias * torch.eye(4)[2])
    chance = torch.Generator().manual_seed(0)
    batch = Batch.of(torch.randint(2, 500, (20, 30), generator=chance).tolist())
    fit, *_ = teach(decoder, batch, 0.05)
    moved = (fit.solve()[BEFORE, name] - block.experts.down_proj).flatten(1).norm(dim=1)
    assert least <= float(moved[2] / moved.max()) <= most


def test_what_is_changed_are_output_matrices_and_routers_stay(model: Any, rows: Sequences) -> None:
    decoder = Decoder.of(model)
    at_gap = {(BEFORE, name) for name in outputs(decoder)}
    assert fitted(model, rows, make_solver("refit")).edit.weights.keys() == at_gap
    after = {(5, name) for name in outputs(decoder)}
    mixers = {(5, n) for n, _ in decoder.layers[5].named_parameters() if "self_attn.o_proj" in n}
    changed = fitted(model, rows, make_solver("reconstruct")).edit.weights.keys()
    assert changed == at_gap | after | mixers


@pytest.mark.parametrize("solver", SOLVERS)
def test_pruned_on_disk_is_what_was_fitted(
    model: Any, rows: Sequences, tmp_path: Path, solver: str
) -> None:
    """The error that a fit states is that of the checkpoint, loaded again."""
    found = fitted(model, rows, make_solver(solver))
    model.save_pretrained(tmp_path / "whole")
    write_checkpoint(tmp_path / "whole", tmp_path / "pruned", found.edit, None)
    again = type(model).from_pretrained(tmp_path / "pruned").eval()
    wanted, got = last_states(model, rows, BLOCK.end - 1), last_states(again, rows, BEFORE)
    error = float((got - wanted).norm() / wanted.norm())
    assert found.relative_error[1] == pytest.approx(error, rel=1e-3)
    assert found.relative_error[1] < found.relative_error[0]
    assert found.warning is None


@pytest.mark.parametrize("original", [True, False], ids=["as released", "as in memory"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tensors_on_disk_are_those_in_memory_bit_by_bit(
    family: str, rows: Sequences, tmp_path: Path, dtype: torch.dtype, original: bool
) -> None:
    """A tensor for each expert in files, and one for all."""
    model = make(family).to(dtype)
    model.save_pretrained(tmp_path / "whole", save_original_format=original)
    names = {e.name for f in (tmp_path / "whole").glob("*.safetensors") for e in read_header(f)[0]}
    if family in ("mixtral", "qwen2_moe", "deepseek_v3"):
        assert any(".experts.3." in name for name in names) == original
    edit = fitted(model, rows, make_solver("reconstruct")).edit
    write_checkpoint(tmp_path / "whole", tmp_path / "pruned", edit, None)
    apply(model, measured(model), edit)
    wanted, got = model.state_dict(), type(model).from_pretrained(tmp_path / "pruned").state_dict()
    assert wanted.keys() == got.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in wanted.items())


def test_new_values_are_rounded_once_to_what_the_files_hold(rows: Sequences, tmp_path: Path) -> None:
    """Fitted in float32, saved in bfloat16."""
    make("mixtral").to(torch.bfloat16).save_pretrained(tmp_path / "whole")
    model = type(make("mixtral")).from_pretrained(tmp_path / "whole", dtype=torch.float32).eval()
    edit = fitted(model, rows, make_solver("refit")).edit
    write_checkpoint(tmp_path / "whole", tmp_path / "pruned", edit, None)
    again = type(model).from_pretrained(tmp_path / "pruned", dtype=torch.float32)
    (values,) = edit.weights.values()
    got = again.model.layers[BEFORE].mlp.experts.down_proj
    assert torch.equal(got, values.bfloat16().float())
    assert not torch.equal(got, values)


def test_refit_comes_closer_than_a_transform(model: Any, rows: Sequences) -> None:
    transform = fitted(model, rows, make_solver("relative"))
    whole = fitted(model, rows, make_solver("refit"))
    assert whole.relative_error[1] < transform.relative_error[1]


def test_reconstruct_comes_closer_to_the_original_than_refit(family: str, rows: Sequences) -> None:
    """At the last layer's output."""
    errors = []
    for solver in SOLVERS:
        made = make(family)
        wanted = last_states(made, rows, 5)
        apply(made, measured(made), fitted(made, rows, make_solver(solver)).edit)
        errors.append(float((last_states(made, rows, 4) - wanted).norm() / wanted.norm()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_model_is_as_before_after_a_solve(model: Any, rows: Sequences, solver: str) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fitted(model, rows, make_solver(solver))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
