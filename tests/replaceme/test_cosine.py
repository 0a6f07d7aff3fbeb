"""The cosine solver, both methods, against hand-written objectives and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from replaceme.errors import InputError
from replaceme.solvers import Cosine, make_solver

WIDTH = 16
EYE = torch.eye(WIDTH, dtype=torch.float64)
EXACT = pytest.mark.parametrize("exact", [False, True])


def cosine_loss(transform: Tensor, tokens: Any, exact: bool) -> Tensor:
    predicted = tokens.mlp @ transform
    goal = tokens.after - tokens.rest
    if exact:
        predicted, goal = predicted + tokens.rest, tokens.after
    return (1 - torch.cosine_similarity(predicted, goal, dim=-1)).mean()


def gradient(transform: Tensor, tokens: Any, exact: bool) -> Tensor:
    at = transform.clone().requires_grad_()
    cosine_loss(at, tokens, exact).backward()
    assert at.grad is not None
    return at.grad


def transform_of(solver: Cosine, tokens: Any, seed: int = 42) -> Tensor:
    return solver.transform(tokens.statistics(torch.float32), seed)[0]


# Adam


@EXACT
def test_adam_lowers_its_own_loss(made_up: Any, exact: bool) -> None:
    solver = Cosine(exact=exact, epochs=30, learning_rate=1e-2)
    transform, notes = solver.transform(made_up.statistics())
    assert cosine_loss(transform, made_up, exact) < 0.8 * cosine_loss(EYE, made_up, exact)
    assert notes["steps"] == 30
    assert notes["tokens"] == 400
    one_less = transform_of(Cosine(exact=exact, epochs=29, learning_rate=1e-2), made_up)
    assert notes["last_loss"] == pytest.approx(float(cosine_loss(one_less, made_up, exact)), rel=1e-4)


@EXACT
def test_first_step_of_adam_goes_against_the_gradient_of_its_loss(made_up: Any, exact: bool) -> None:
    slope = gradient(EYE, made_up, exact)
    step = transform_of(Cosine(exact=exact, epochs=1, learning_rate=1e-3), made_up) - EYE
    wanted = -1e-3 * slope / (slope.abs() + 1e-8)
    torch.testing.assert_close(step, wanted, rtol=1e-3, atol=1e-6)


SHAPES = ("full", "diagonal", "triangular", "outer")
LOSSES = ("cosine", "mse", "elasticnet")
# the angle of a multiple of one row does not depend on the other factor: Adam would follow noise
UNDEFINED = ("outer", "cosine", False)
DESCENTS = [case for case in product(SHAPES, LOSSES, (False, True)) if case != UNDEFINED]


@pytest.mark.parametrize("shape, loss, exact", DESCENTS)
def test_adam_equals_the_same_steps_written_out(
    made_up: Any, shape: str, loss: str, exact: bool
) -> None:
    """Three epochs of one step each over all tokens, in float64."""
    goal = made_up.after if exact else made_up.after - made_up.rest
    shift = made_up.rest if exact else 0.0
    sizes = {"outer": [(WIDTH,), (WIDTH,)], "diagonal": [(WIDTH,)]}
    parts = [torch.ones(s).double() for s in sizes.get(shape, [])] or [EYE.clone()]

    def matrix() -> Tensor:
        if shape == "outer":
            return parts[0][:, None] * parts[1][None, :]
        if shape == "diagonal":
            return parts[0] * EYE
        return parts[0] * torch.ones_like(EYE).triu() if shape == "triangular" else parts[0] * 1.0

    def value() -> Tensor:
        predicted = made_up.mlp @ matrix() + shift
        if loss == "cosine":
            return (1 - torch.cosine_similarity(predicted, goal, dim=-1)).mean()
        error = ((predicted - goal) ** 2).mean()
        if loss == "mse":
            return error
        return error + 0.09 * predicted.abs().sum() + 0.045 * (predicted**2).sum()

    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parts]
    for step in range(1, 4):
        for part in parts:
            part.requires_grad_()
        slopes = torch.autograd.grad(value(), parts)
        with torch.no_grad():
            for i, slope in enumerate(slopes):
                first, second = moments[i]
                first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
                moments[i] = first, second
                scale = (second / (1 - 0.999**step)).sqrt() + 1e-8
                parts[i] = parts[i].detach() - 1e-2 * first / (1 - 0.9**step) / scale
    solver = make_solver(
        "cosine", shape=shape, loss=loss, exact=exact, epochs=3, learning_rate=1e-2, step_tokens=400
    )
    got, _ = solver.transform(made_up.statistics())  # type: ignore[attr-defined]
    torch.testing.assert_close(got, matrix().detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["adam", "irls"])
def test_exact_and_approximate_are_each_best_at_their_own_objective(made_up: Any, method: str) -> None:
    settings: dict[str, Any] = {"method": method, "epochs": 200, "learning_rate": 1e-2}
    approximate, exact = (transform_of(Cosine(exact=e, **settings), made_up) for e in (False, True))
    assert cosine_loss(exact, made_up, True) < cosine_loss(approximate, made_up, True)
    assert cosine_loss(approximate, made_up, False) < cosine_loss(exact, made_up, False)


def test_adam_depends_on_the_seed_alone(made_up: Any) -> None:
    solver = Cosine(step_tokens=32)
    first, again, other = (transform_of(solver, made_up, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("method", ["adam", "irls"])
def test_no_more_tokens_are_used_than_asked_for(made_up: Any, method: str) -> None:
    solver = make_solver("cosine", method=method, tokens=64, step_tokens=50)
    assert isinstance(solver, Cosine)
    statistics = made_up.statistics()
    transform, notes = solver.transform(statistics)
    assert solver.needs.sample_tokens == notes["tokens"] == 64
    assert notes.get("steps", 20) == 20
    few = replace(statistics, sample=statistics.sample.first(64))
    assert torch.equal(transform, solver.transform(few)[0])


# reweighted least squares


@EXACT
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_vanishes_where_the_reweighting_ends(
    made_up: Any, exact: bool, dtype: torch.dtype
) -> None:
    tokens = made_up.rounded(dtype)
    solver = Cosine(method="irls", exact=exact, iterations=500, tolerance=1e-9)
    transform, notes = solver.transform(tokens.statistics(dtype))
    start, end = (gradient(t, tokens, exact).norm() for t in (EYE, transform))
    assert end < 1e-7 * start
    assert cosine_loss(transform, tokens, exact) < cosine_loss(EYE, tokens, exact)
    assert notes["change"] < 1e-9


@EXACT
def test_reweighting_ends_where_a_long_descent_does(made_up: Any, exact: bool) -> None:
    """The descent is L-BFGS in float64, from the identity too."""
    found, _ = Cosine(method="irls", exact=exact, iterations=300).transform(made_up.statistics())
    at = EYE.clone().requires_grad_()
    descent = torch.optim.LBFGS([at], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        descent.zero_grad()
        loss = cosine_loss(at, made_up, exact)
        loss.backward()
        return loss

    descent.step(closure)  # type: ignore[arg-type]
    wanted = float(cosine_loss(at, made_up, exact).detach())
    assert float(cosine_loss(found, made_up, exact)) == pytest.approx(wanted, abs=1e-7)


def test_reweighting_stops_when_little_changes_or_at_the_last_solve(made_up: Any) -> None:
    statistics = made_up.statistics()
    _, few = Cosine(method="irls", iterations=3, tolerance=1e-12).transform(statistics)
    _, loose = Cosine(method="irls", tolerance=1e-2).transform(statistics)
    _, tight = Cosine(method="irls", tolerance=1e-7).transform(statistics)
    assert few["iterations"] == 3
    assert loose["change"] < 1e-2
    assert tight["change"] < 1e-7
    assert loose["iterations"] < tight["iterations"] < 50


@EXACT
@pytest.mark.parametrize("tokens, rank", [(400, 5), (6, WIDTH), (WIDTH - 1, WIDTH)])
def test_directions_without_data_stay_as_they_are(
    make_tokens: Callable[..., Any], exact: bool, tokens: int, rank: int
) -> None:
    """Rank-deficient M, or fewer tokens than dimensions."""
    made = make_tokens(tokens, rank).rounded(torch.float64)
    _, _, right = torch.linalg.svd(made.mlp)
    empty = right[min(tokens, rank) :].mT
    for solver in (Cosine(method="irls", exact=exact), Cosine(exact=exact, learning_rate=1e-3)):
        transform, _ = solver.transform(made.statistics())
        assert transform.isfinite().all()
        assert cosine_loss(transform, made, exact) < cosine_loss(EYE, made, exact)
        if solver.method == "irls":
            torch.testing.assert_close(empty.mT @ transform, empty.mT, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "parameters",
    [{"method": "sgd"}, {"shape": "banded"}, {"epochs": 0}, {"loss": "l1"}, {"tolerance": 0}],
    ids=str,
)
def test_impossible_parameter_is_refused_by_name(parameters: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"solver 'cosine', parameter {next(iter(parameters))}"):
        make_solver("cosine", **parameters)
