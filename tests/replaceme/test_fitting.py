"""Diagnostics of a fit, and when it is doubted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import replaceme
from replaceme.calibration import Batches
from replaceme.edit import apply
from replaceme.fitting import Fit
from replaceme.selection import Block
from replaceme.solvers import Solver, make_solver
from replaceme.solvers.base import TransformSolver
from tests.families import measured

Make = Callable[..., Any]
Sequences = list[list[int]]
BLOCK = Block(2, 4)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("down_proj", {}),
    "granite": ("down_proj", {"residual_multiplier": 0.4, "mlp_bias": True}),
    "phi": ("fc2", {}),
}
SOLVERS: dict[str, Any] = {
    "uidl": {},
    "lstsq": {"ridge": 0.1},
    "relative": {"diagonal": True},
    "cosine": {"step_tokens": 64},
    "refit": {},
    "reconstruct": {},
}


class Scaled(TransformSolver):
    """A multiple of the identity."""

    name: ClassVar[str] = "scaled"
    summary: ClassVar[str] = "a multiple of the identity"
    factor: float

    def transform(self, statistics: Any, seed: int = 42) -> tuple[Tensor, dict[str, Any]]:  # noqa: ARG002
        width = statistics.sample.mlp.shape[1]
        return self.factor * torch.eye(width, dtype=torch.float64), {}


class TwiceAsLong(TransformSolver):
    """Least squares toward states of twice the length."""

    name: ClassVar[str] = "long"
    summary: ClassVar[str] = "too long states"

    def transform(self, statistics: Any, seed: int = 42) -> tuple[Tensor, dict[str, Any]]:  # noqa: ARG002
        mlp, before, after = (getattr(statistics.sample, n).double() for n in ("mlp", "before", "after"))
        return torch.linalg.lstsq(mlp, 2 * after - (before - mlp)).solution, {}


def fitted(model: Any, sequences: Sequences, solver: Solver, *blocks: Block, held_back: int = 0) -> Fit:
    calibration = replaceme.calibrate(
        model,
        Batches(sequences, 4),
        blocks=[blocks or (BLOCK,)],
        solvers=[solver],
        held_back_tokens=held_back,
    )
    return replaceme.fit(solver, calibration, blocks or (BLOCK,))


def pruned(model: Any, fit: Fit) -> Any:
    copy = deepcopy(model)
    apply(copy, measured(model), fit.edit)
    return copy


@contextmanager
def massive_first_tokens(layer: Any) -> Iterator[None]:
    """First tokens get a 3,000 times larger MLP output, like the sinks of real models."""

    def enlarge(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        return torch.cat([3000 * output[:, :1], output[:, 1:]], dim=1)

    handle = layer.mlp.register_forward_hook(enlarge)
    yield
    handle.remove()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_diagnostics_are_those_of_the_pruned_model_itself(
    make_model: Make, sequences: Sequences, states_alone: Any, family: str, solver: str
) -> None:
    projection, settings = FAMILIES[family]
    model = make_model(family, num_hidden_layers=6, **settings)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data += 0.3
    fit = fitted(model, sequences, make_solver(solver, **SOLVERS[solver]))
    wanted = states_alone(model, sequences, projection).layers[BLOCK.end - 1]
    plain = fitted(model, sequences, make_solver("uidl"))
    for index, of in enumerate((plain, fit)):
        got = states_alone(pruned(model, of), sequences, projection).layers[BLOCK.start - 1]
        error = float((got - wanted).norm() / wanted.norm())
        cosine = float(torch.cosine_similarity(got, wanted, dim=-1).mean())
        assert fit.relative_error[index] == pytest.approx(error, rel=1e-3)
        assert fit.mean_cosine[index] == pytest.approx(cosine, rel=1e-3)
    assert fit.loss is fit.intact_loss is None
    assert fit.warning is None


def test_diagnostics_of_several_blocks_are_those_of_the_first(llama: Any, sequences: Sequences) -> None:
    solver = make_solver("lstsq")
    together = fitted(llama, sequences, solver, Block(1, 3), Block(5, 6))
    alone = fitted(llama, sequences, solver, Block(1, 3))
    assert together.relative_error == alone.relative_error
    assert together.mean_cosine == alone.mean_cosine
    assert together.notes.keys() == {"[1, 3)", "[5, 6)"}
    assert together.notes["[1, 3)"] == alone.notes


@pytest.mark.parametrize("solver", ["uidl", "lstsq", "refit", "reconstruct"])
def test_blocks_that_touch_are_fitted_as_one(llama: Any, sequences: Sequences, solver: str) -> None:
    made = make_solver(solver)
    apart, whole = (
        fitted(llama, sequences, made, *blocks) for blocks in ([Block(2, 3), Block(3, 5)], [Block(2, 5)])
    )
    assert apart.edit.kept(8) == whole.edit.kept(8) == [0, 1, 5, 6, 7]
    for one, other in (
        (apart.edit.transforms, whole.edit.transforms),
        (apart.edit.weights, whole.edit.weights),
    ):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)  # type: ignore[index]


def test_plain_removal_is_not_doubted(llama: Any, sequences: Sequences) -> None:
    for held_back in (0, 4096):
        fit = fitted(llama, sequences, make_solver("uidl"), held_back=held_back)
        assert fit.relative_error[0] == fit.relative_error[1]
        assert fit.mean_cosine[0] == fit.mean_cosine[1]
        assert fit.loss is None or fit.loss[0] == fit.loss[1]
        assert fit.warning is None


def test_fit_worse_than_removal_is_kept_with_a_warning(llama: Any, sequences: Sequences) -> None:
    fit = fitted(llama, sequences, Scaled(factor=-20.0))
    assert fit.relative_error[1] > fit.relative_error[0]
    assert fit.mean_cosine[1] < fit.mean_cosine[0]
    assert fit.warning == "its mean cosine is worse than that of plain removal"
    assert fit.edit.transforms.keys() == {BLOCK.start - 1}


def test_fit_of_too_long_states_is_warned_of_although_their_angles_are_better(
    llama: Any, sequences: Sequences
) -> None:
    """Both measures count where no text is held back."""
    fit = fitted(llama, sequences, TwiceAsLong())
    assert fit.mean_cosine[1] > fit.mean_cosine[0]
    assert fit.relative_error[1] > fit.relative_error[0]
    assert fit.warning == "its relative error is worse than that of plain removal"


def test_fit_owned_by_massive_tokens_is_warned_of(make_model: Make, sequences: Sequences) -> None:
    model = make_model(num_hidden_layers=6)
    with massive_first_tokens(model.model.layers[BLOCK.end - 1]):
        fit = fitted(model, sequences, make_solver("lstsq"))
    assert fit.relative_error[1] < fit.relative_error[0]
    assert fit.mean_cosine[1] < fit.mean_cosine[0]
    assert fit.warning == "its mean cosine is worse than that of plain removal"


def test_loss_decides_where_text_is_held_back(llama: Any, sequences: Sequences) -> None:
    fits = [
        fitted(llama, sequences, Scaled(factor=factor), held_back=4096)
        for factor in (-20.0, -1.0, 0.0, 0.5, 1.5, 20.0)
    ]
    for fit in fits:
        assert fit.loss is not None
        doubted = fit.loss[1] > fit.loss[0]
        wanted = "its loss on held-back tokens is worse than that of plain removal"
        assert fit.warning == (wanted if doubted else None)
    assert {fit.warning is None for fit in fits} == {True, False}


@pytest.mark.parametrize("held_back", [0, 4096])
@pytest.mark.parametrize("solver", ["lstsq", "relative", "cosine", "refit", "reconstruct"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fit_that_is_not_finite_becomes_plain_removal_with_a_warning(
    make_model: Make, sequences: Sequences, solver: str, value: float, held_back: int
) -> None:
    model = make_model(num_hidden_layers=5)
    model.model.layers[BLOCK.start - 1].mlp.up_proj.weight.data[3, 3] = value
    fit = fitted(model, sequences[:12], make_solver(solver), held_back=held_back)
    assert fit.edit.blocks == (BLOCK,)
    assert not fit.edit.transforms
    assert not fit.edit.weights
    assert fit.warning == "the solution was not finite; plain removal was used instead"


def test_loss_that_is_not_a_number_is_warned_of(make_model: Make, sequences: Sequences) -> None:
    model = make_model(num_hidden_layers=5)
    model.model.layers[4].mlp.up_proj.weight.data[3, 3] = float("nan")
    fit = fitted(model, sequences, make_solver("lstsq"), held_back=4096)
    assert fit.edit.transforms
    assert fit.warning == "its loss on held-back tokens is not a number"
