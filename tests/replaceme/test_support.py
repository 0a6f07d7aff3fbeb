"""Which solvers work on which families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import replaceme
from replaceme.architectures import architecture_of
from replaceme.calibration import Batches
from replaceme.edit import Edit, apply
from replaceme.errors import InputError
from replaceme.selection import Block
from replaceme.solvers import make_solver
from tests import zoo
from tests.families import DIAGONAL, TRANSFORMS, measured

Make = Callable[..., Any]
BLOCK = Block(2, 3)


def calibrate(made: Make, model_type: str, name: str, **parameters: Any) -> Any:
    model, solver = made(model_type), make_solver(name, **parameters)
    rows = [list(range(2 + i, 40 + 3 * i)) for i in range(9)]
    calibration = replaceme.calibrate(model, Batches(rows, 3), blocks=[(BLOCK,)], solvers=[solver])
    return model, replaceme.fit(solver, calibration, (BLOCK,))


@pytest.mark.parametrize("solver", ["refit", "reconstruct"])
@pytest.mark.parametrize("model_type", [f.model_type for f in TRANSFORMS.values()])
def test_experts_that_are_given_one_state_are_refitted(made: Make, model_type: str, solver: str) -> None:
    row = measured(made(model_type))
    assert any(kind.experts for kind in row.kinds)
    make_solver(solver).check(row)
    other = replace(row, kinds=tuple(replace(kind, experts=False) for kind in row.kinds))
    with pytest.raises(
        InputError, match="several matrices make of more than one state; lstsq, relative"
    ):
        make_solver(solver).check(other)


@pytest.mark.parametrize("solver", ["lstsq", "relative", "cosine"])
@pytest.mark.parametrize("model_type", [f.model_type for f in DIAGONAL.values()])
def test_refusal_for_a_norm_after_the_mlp_names_it_and_what_works(
    made: Make, model_type: str, solver: str
) -> None:
    row = measured(made(model_type))
    with pytest.raises(InputError) as error:
        make_solver(solver).check(row)
    assert f"the norm {row.kinds[0].norm}" in str(error.value)
    assert row.title in str(error.value)
    assert "solvers that work are uidl, refit, reconstruct, and lstsq or relative with" in str(
        error.value
    )
    assert "diagonal: true, or cosine with shape: diagonal" in str(error.value)


@pytest.mark.parametrize("solver", ["refit", "reconstruct"])
@pytest.mark.parametrize(
    "model_type, norm",
    [("flex_olmo", "post_feedforward_layernorm"), ("openai-gpt", "ln_2"), ("git", "output.LayerNorm")],
)
def test_a_norm_of_more_than_a_projection_is_refused(model_type: str, norm: str, solver: str) -> None:
    """Of all experts, or of the state as well."""
    found = architecture_of(zoo.config_of(model_type).to_dict(), model_type)
    with pytest.raises(InputError) as error:
        make_solver(solver).check(found)
    assert f"passes more than the output of one matrix through the norm {norm};" in str(error.value)
    assert "solvers that work are uidl, and lstsq or relative with diagonal: true" in str(error.value)


def test_calibration_refuses_a_solver_before_any_pass(made: Make) -> None:
    model = made("gemma2")
    model.get_input_embeddings().register_forward_hook(lambda *_: pytest.fail("it ran"))
    with pytest.raises(InputError, match="solver 'lstsq'"):
        replaceme.calibrate(model, Batches([[1, 2]]), counts=[1], solvers=[make_solver("lstsq")])


@pytest.mark.parametrize("solver", ["lstsq", "relative", "cosine"])
@pytest.mark.parametrize("model_type", [f.model_type for f in DIAGONAL.values()])
def test_diagonal_works_where_a_norm_follows_the_mlp(made: Make, model_type: str, solver: str) -> None:
    settings: dict[str, Any] = {"diagonal": True}
    if solver == "cosine":
        settings = {"shape": "diagonal", "learning_rate": 1e-2, "exact": True}
    _, fit = calibrate(made, model_type, solver, **settings)
    assert fit.warning is None
    measure = fit.relative_error if solver == "lstsq" else [-c for c in fit.mean_cosine]
    assert measure[1] < measure[0]


@pytest.mark.parametrize("solver", ["lstsq", "relative", "cosine"])
@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "granitemoe", "gpt_oss"])
def test_transform_of_experts_is_what_the_pruned_model_computes(
    made: Make, model_type: str, solver: str
) -> None:
    """The state that leaves the layer before the block is as close as the fit says."""
    model, fit = calibrate(made, model_type, solver)
    assert fit.relative_error[1] < fit.relative_error[0]
    rows = [list(range(2 + i, 40 + 3 * i)) for i in range(9)]

    @torch.no_grad()
    def state(layer: int) -> torch.Tensor:
        hidden = [model(torch.tensor([ids]), output_hidden_states=True).hidden_states for ids in rows]
        return torch.cat([h[layer + 1][0] for h in hidden]).double()

    wanted = state(BLOCK.end - 1)
    apply(model, measured(model), Edit(transforms=fit.edit.transforms))
    got = state(BLOCK.start - 1)
    assert float((got - wanted).norm() / wanted.norm()) == pytest.approx(fit.relative_error[1], rel=1e-3)
