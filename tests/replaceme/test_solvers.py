"""Solvers against torch.linalg and hand-written objectives in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from replaceme.errors import InputError
from replaceme.fitting import Fit, fit
from replaceme.solvers import SOLVERS, Cosine, Lstsq, Uidl, make_solver
from replaceme.statistics import Moments

WIDTH = 16
EYE = torch.eye(WIDTH, dtype=torch.float64)
States = tuple[Tensor, Tensor, Tensor]


def random_states(tokens: int = 400, rank: int = WIDTH) -> States:
    """M, L_in and L_out, float32; M spans ``rank`` dimensions."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mlp = normal(tokens, rank) @ normal(rank, WIDTH)
    before = mlp + normal(tokens, WIDTH)
    after = before + 0.3 * mlp @ normal(WIDTH, WIDTH) + 0.5 * normal(tokens, WIDTH)
    return mlp.float(), before.float(), after.float()


@pytest.fixture(scope="module")
def states() -> States:
    return random_states()


@pytest.fixture(scope="module")
def moments(make_moments: Callable[..., Moments], states: States) -> Moments:
    return make_moments(*states)


def doubled(states: States) -> States:
    mlp, before, after = (state.double() for state in states)
    return mlp, before, after


def transform_of(solver: Any, moments: Moments, seed: int = 42) -> Tensor:
    transform = solver.solve(moments, seed).transform
    assert transform is not None
    return transform


def cosine_loss(transform: Tensor, states: States, exact: bool) -> Tensor:
    mlp, before, after = doubled(states)
    rest = before - mlp
    pair = (mlp @ transform + rest, after) if exact else (mlp @ transform, after - rest)
    return (1 - torch.cosine_similarity(*pair, dim=-1)).mean()


def relative_errors(states: States, transform: Tensor) -> tuple[float, float]:
    mlp, before, after = doubled(states)
    fitted = before - mlp + mlp @ transform
    return tuple(float((x - after).norm() / after.norm()) for x in (before, fitted))  # type: ignore[return-value]


def test_lstsq_equals_a_direct_solution(states: States, moments: Moments) -> None:
    mlp, before, after = doubled(states)
    wanted = torch.linalg.lstsq(mlp, after - (before - mlp)).solution
    torch.testing.assert_close(transform_of(Lstsq(), moments), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("alpha", [0.5, 100.0])
def test_alpha_is_absolute_and_pulls_toward_zero(states: States, moments: Moments, alpha: float) -> None:
    mlp, before, after = doubled(states)
    wanted = torch.linalg.inv(mlp.mT @ mlp + alpha * EYE) @ mlp.mT @ (after - (before - mlp))
    torch.testing.assert_close(transform_of(Lstsq(alpha=alpha), moments), wanted, rtol=1e-9, atol=1e-9)
    assert transform_of(Lstsq(alpha=1e12), moments).abs().max() < 1e-6


@pytest.mark.parametrize("ridge", [0.01, 10.0])
def test_ridge_is_relative_to_the_gram_and_pulls_toward_the_identity(
    states: States, moments: Moments, ridge: float
) -> None:
    mlp, before, after = doubled(states)
    weight = (ridge * mlp.square().sum(0).median()).sqrt()
    stacked = torch.cat([mlp, weight * EYE])
    wanted = torch.linalg.lstsq(stacked, torch.cat([after - (before - mlp), weight * EYE])).solution
    torch.testing.assert_close(transform_of(Lstsq(ridge=ridge), moments), wanted, rtol=1e-9, atol=1e-9)


def test_infinite_ridge_is_the_identity(moments: Moments) -> None:
    torch.testing.assert_close(transform_of(Lstsq(ridge=1e12), moments), EYE, rtol=0, atol=1e-8)


@pytest.mark.parametrize("tokens, rank", [(400, 5), (6, WIDTH), (400, 1)])
def test_singular_gram_gives_the_smallest_correction_and_its_rank(
    make_moments: Callable[..., Moments], tokens: int, rank: int
) -> None:
    states = random_states(tokens, rank)
    mlp, before, after = doubled(states)
    left, values, right = torch.linalg.svd(mlp, full_matrices=False)
    kept = min(tokens, rank)
    inverse = right[:kept].mT @ torch.diag(1 / values[:kept]) @ left[:, :kept].mT
    # float32 states have full rank by a hair; cut M to its rank exactly
    exact = left[:, :kept] @ torch.diag(values[:kept]) @ right[:kept]
    solution = Lstsq().solve(make_moments(exact, before, after))
    assert solution.notes["rank"] == kept
    assert solution.notes["condition"] == pytest.approx(
        float((values[0] / values[kept - 1]) ** 2), rel=1e-4
    )
    assert solution.transform is not None
    wanted = EYE + inverse @ (after - before)
    torch.testing.assert_close(solution.transform, wanted, rtol=1e-5, atol=1e-5)


def test_regular_gram_reports_full_rank_and_condition(moments: Moments) -> None:
    notes = Lstsq().solve(moments).notes
    assert notes["rank"] == WIDTH
    assert notes["condition"] == pytest.approx(float(torch.linalg.cond(moments.gram)), rel=1e-6)


def test_tokens_without_mlp_output_give_the_identity(make_moments: Callable[..., Moments]) -> None:
    _, before, after = random_states()
    solution = Lstsq().solve(make_moments(torch.zeros_like(before), before, after))
    assert solution.notes == {"rank": 0, "condition": None}
    torch.testing.assert_close(solution.transform, EYE)


def test_uidl_is_the_identity(states: States, moments: Moments) -> None:
    fitted = fit(Uidl(), moments)
    assert fitted.transform is None
    assert fitted.warning is None
    assert fitted.relative_error[0] == fitted.relative_error[1]
    assert fitted.relative_error[0] == pytest.approx(relative_errors(states, EYE)[0], rel=1e-9)


@pytest.mark.parametrize("exact", [False, True])
def test_cosine_lowers_its_own_loss(states: States, moments: Moments, exact: bool) -> None:
    solver = Cosine(exact=exact, epochs=30, learning_rate=1e-2)
    transform, notes = solver.solve(moments)
    assert transform is not None
    assert cosine_loss(transform, states, exact) < 0.8 * cosine_loss(EYE, states, exact)
    assert notes["steps"] == 30
    assert notes["tokens"] == 400
    one_less = transform_of(Cosine(exact=exact, epochs=29, learning_rate=1e-2), moments)
    assert notes["last_loss"] == pytest.approx(float(cosine_loss(one_less, states, exact)), rel=1e-4)


@pytest.mark.parametrize("exact", [False, True])
def test_cosine_first_step_goes_against_the_gradient_of_its_loss(
    states: States, moments: Moments, exact: bool
) -> None:
    start = EYE.clone().requires_grad_()
    cosine_loss(start, states, exact).backward()
    assert start.grad is not None
    step = transform_of(Cosine(exact=exact, epochs=1, learning_rate=1e-3), moments) - EYE
    wanted = -1e-3 * start.grad / (start.grad.abs() + 1e-8)
    torch.testing.assert_close(step, wanted, rtol=1e-3, atol=1e-6)


def test_exact_and_approximate_cosine_are_each_best_at_their_own_objective(
    states: States, moments: Moments
) -> None:
    settings: dict[str, Any] = {"epochs": 200, "learning_rate": 1e-2}
    approximate, exact = (transform_of(Cosine(exact=e, **settings), moments) for e in (False, True))
    assert cosine_loss(exact, states, True) < cosine_loss(approximate, states, True)
    assert cosine_loss(approximate, states, False) < cosine_loss(exact, states, False)


def test_cosine_depends_on_the_seed_alone(moments: Moments) -> None:
    solver = Cosine(step_tokens=32)
    first, again, other = (transform_of(solver, moments, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_cosine_uses_no_more_tokens_than_it_asked_for(moments: Moments) -> None:
    solver = Cosine(tokens=64, step_tokens=50)
    solution = solver.solve(moments)
    assert solver.sample_tokens == solution.notes["tokens"] == 64
    assert solution.notes["steps"] == 20
    same = solver.solve(replace(moments, sample=moments.sample.first(64))).transform
    assert solution.transform is not None and same is not None
    assert torch.equal(solution.transform, same)


@pytest.mark.parametrize("solver", [Lstsq(), Lstsq(ridge=0.1), Cosine(epochs=5)], ids=repr)
def test_diagnostics_of_a_fit_equal_those_of_its_predictions(
    states: States, moments: Moments, solver: Any
) -> None:
    fitted = fit(solver, moments)
    assert fitted.transform is not None
    assert fitted.relative_error == pytest.approx(relative_errors(states, fitted.transform), rel=1e-8)
    cosines = [1 - float(cosine_loss(transform, states, True)) for transform in (EYE, fitted.transform)]
    assert fitted.mean_cosine == pytest.approx(tuple(cosines), rel=1e-8)


def test_fit_worse_than_removal_is_kept_with_a_warning(moments: Moments) -> None:
    fitted = fit(Lstsq(alpha=1e9), moments)
    assert fitted.transform is not None
    assert fitted.relative_error[1] > fitted.relative_error[0]
    assert fitted.warning
    assert "the fit's mean cosine is worse than that of plain removal" in fitted.warning


def test_fit_owned_by_one_massive_token_is_warned_of(
    make_moments: Callable[..., Moments], states: States
) -> None:
    mlp, before, after = (state.clone() for state in states)
    after[:] = before + 0.01 * after
    after[0] += 1e5
    fitted = fit(Lstsq(), make_moments(mlp, before, after))
    assert fitted.relative_error[1] < fitted.relative_error[0]
    assert fitted.mean_cosine[1] < fitted.mean_cosine[0]
    assert fitted.warning
    assert "mean cosine" in fitted.warning


@pytest.mark.parametrize("solver", [Lstsq(), Cosine()], ids=repr)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fit_that_is_not_finite_becomes_the_identity_with_a_warning(
    make_moments: Callable[..., Moments], states: States, solver: Any, value: float
) -> None:
    mlp, before, after = (state.clone() for state in states)
    mlp[7, 3] = value
    fitted: Fit = fit(solver, make_moments(mlp, before, after))
    assert fitted.transform is None
    assert fitted.warning == "the solution was not finite; the identity was used instead"


def test_unknown_solver_names_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"'lstqs'; did you mean 'lstsq'\? Solvers are uidl, lstsq, cosine\."
    ):
        make_solver("lstqs")


def test_unknown_solver_far_from_all_is_a_whole_sentence() -> None:
    with pytest.raises(InputError, match=r"^unknown solver 'zzz'\. Solvers are uidl, lstsq, cosine\.$"):
        make_solver("zzz")


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("lstsq", {"rigde": 1.0}),
        ("lstsq", {"ridge": -1.0}),
        ("uidl", {"ridge": 0.1}),
        ("cosine", {"epochs": 0}),
    ],
)
def test_wrong_solver_parameter_is_refused_by_name(name: str, parameters: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(parameters))):
        make_solver(name, **parameters)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_is_made_by_its_name(name: str) -> None:
    solver = make_solver(name)
    assert type(solver) is SOLVERS[name]
    assert solver.name == name
    assert solver.summary
