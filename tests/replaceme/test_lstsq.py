"""Least squares, plain and relative, against torch.linalg on the tokens themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from replaceme.solvers import Lstsq, Relative

WIDTH = 16
EYE = torch.eye(WIDTH, dtype=torch.float64)
SOLVERS = [Lstsq, Relative]
PENALTIES = [
    {},
    {"ridge": 0.01},
    {"ridge": 10.0},
    {"alpha": 0.5},
    {"alpha": 100.0},
    {"ridge": 0.3, "alpha": 2.0},
]


def rows_of(solver: Any, tokens: Any) -> tuple[Tensor, Tensor]:
    """M and what M T is to be, both [tokens, d] and weighted as the solver weighs them."""
    scale = 1 / tokens.lengths if solver is Relative else 1.0
    return tokens.mlp * scale, (tokens.after - tokens.rest) * scale


def penalised(rows: Tensor, goal: Tensor, ridge: float = 0.0, alpha: float = 0.0) -> Tensor:
    """argmin ‖rows T − goal‖² + λ‖T − I‖² + α‖T‖² with more rows for the penalties."""
    pull, identity = (ridge * rows.square().sum(0).median()).sqrt(), torch.eye(rows.shape[1]).double()
    stacked = torch.cat([rows, pull * identity, alpha**0.5 * identity])
    wanted = torch.cat([goal, pull * identity, torch.zeros_like(identity)])
    return torch.linalg.lstsq(stacked, wanted).solution


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
def test_transform_is_the_penalised_least_squares_solution(
    made_up: Any, solver: Any, penalty: dict[str, float]
) -> None:
    wanted = penalised(*rows_of(solver, made_up), **penalty)
    got, _ = solver(**penalty).transform(made_up.statistics())
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
def test_diagonal_transform_solves_each_entry_by_itself(
    made_up: Any, solver: Any, penalty: dict[str, float]
) -> None:
    rows, goal = rows_of(solver, made_up)
    pull = penalty.get("ridge", 0.0) * float(rows.square().sum(0).median())
    alpha = penalty.get("alpha", 0.0)
    wanted = [
        (float(rows[:, i] @ goal[:, i]) + pull) / (float(rows[:, i] @ rows[:, i]) + pull + alpha)
        for i in range(WIDTH)
    ]
    got, _ = solver(**penalty, diagonal=True).transform(made_up.statistics())
    torch.testing.assert_close(got, torch.tensor(wanted).double().diag(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_ridge_pulls_toward_the_identity_and_alpha_toward_zero(
    made_up: Any, solver: Any, diagonal: bool
) -> None:
    statistics = made_up.statistics()
    ridge, _ = solver(ridge=1e12, diagonal=diagonal).transform(statistics)
    alpha, _ = solver(alpha=1e12, diagonal=diagonal).transform(statistics)
    torch.testing.assert_close(ridge, EYE, rtol=0, atol=1e-8)
    torch.testing.assert_close(alpha, torch.zeros_like(EYE), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("solver", SOLVERS)
def test_transform_solves_the_problem_of_the_states_as_they_were_rounded(
    made_up: Any, solver: Any, dtype: torch.dtype
) -> None:
    tokens = made_up.rounded(dtype)
    got, _ = solver().transform(tokens.statistics(dtype))
    torch.testing.assert_close(got, penalised(*rows_of(solver, tokens)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tokens, rank", [(400, 5), (400, 1), (6, WIDTH), (WIDTH - 1, WIDTH)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_singular_gram_gives_the_smallest_correction_and_its_rank(
    make_tokens: Callable[..., Any], solver: Any, tokens: int, rank: int
) -> None:
    states = make_tokens(tokens, rank)
    rows, goal = rows_of(solver, states)
    kept = min(tokens, rank)
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    inverse = right[:kept].mT @ torch.diag(1 / values[:kept]) @ left[:, :kept].mT
    got, notes = solver().transform(states.statistics())
    assert notes["rank"] == kept
    assert notes["condition"] == pytest.approx(float((values[0] / values[kept - 1]) ** 2), rel=1e-4)
    torch.testing.assert_close(got, EYE + inverse @ (goal - rows), rtol=1e-5, atol=1e-5)
    if tokens == kept:
        torch.testing.assert_close(rows @ got, goal, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_regular_gram_reports_full_rank_and_condition(made_up: Any, solver: Any) -> None:
    _, notes = solver().transform(made_up.statistics())
    values = torch.linalg.svdvals(rows_of(solver, made_up)[0])
    assert notes["rank"] == WIDTH
    assert notes["condition"] == pytest.approx(float((values[0] / values[-1]) ** 2), rel=1e-2)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_tokens_without_mlp_output_give_the_identity(
    make_tokens: Callable[..., Any], solver: Any, diagonal: bool
) -> None:
    tokens = make_tokens()
    tokens.mlp.zero_()
    got, notes = solver(diagonal=diagonal).transform(tokens.statistics())
    assert notes["rank"] == 0
    torch.testing.assert_close(got, EYE)


def test_massive_tokens_do_not_own_the_relative_fit(make_tokens: Callable[..., Any]) -> None:
    """One token of 1e4 times the length: the others are fitted as well as without it."""
    tokens = make_tokens()
    ordinary = slice(1, None)

    def error(transform: Tensor) -> float:
        predicted = (tokens.mlp @ transform + tokens.rest)[ordinary]
        return float((predicted - tokens.after[ordinary]).norm())

    best = error(penalised(tokens.mlp[ordinary], (tokens.after - tokens.rest)[ordinary]))
    tokens.mlp[0] *= 1e3
    tokens.after[0] *= 1e4
    statistics = tokens.statistics()
    plain, relative = (error(solver().transform(statistics)[0]) for solver in SOLVERS)
    assert relative < 1.5 * best
    assert plain > 5 * best
