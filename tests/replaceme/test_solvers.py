"""What holds for every solver: names and parameters, precisions, scarce data, determinism."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import replaceme
from replaceme.calibration import Batches
from replaceme.errors import InputError
from replaceme.fitting import Fit
from replaceme.selection import Block
from replaceme.solvers import SOLVERS, make_solver
from replaceme.statistics import Kind

Make = Callable[..., Any]
Sequences = list[list[int]]
BLOCK = Block(2, 4)
WIDTH, INNER = 64, 96
SETTINGS: dict[str, dict[str, Any]] = {
    "uidl": {"name": "uidl"},
    "lstsq": {"name": "lstsq"},
    "lstsq-ridge": {"name": "lstsq", "ridge": 0.1},
    "lstsq-diagonal": {"name": "lstsq", "diagonal": True},
    "cosine": {"name": "cosine", "step_tokens": 64, "epochs": 5, "learning_rate": 1e-2},
    "cosine-irls": {"name": "cosine", "method": "irls", "iterations": 5},
    "relative": {"name": "relative"},
    "refit": {"name": "refit"},
    "reconstruct": {"name": "reconstruct"},
}
every_solver = pytest.mark.parametrize("label", SETTINGS)


def calibrated(model: Any, sequences: Sequences, label: str) -> tuple[Any, Any]:
    """Solver and calibration, on all sequences."""
    solver = make_solver(**SETTINGS[label])
    batches = Batches(sequences, 4)
    calibration = replaceme.calibrate(
        model, batches, blocks=[(BLOCK,)], solvers=[solver], held_back_tokens=0
    )
    return solver, calibration


def fitted(model: Any, sequences: Sequences, label: str, seed: int = 42) -> Fit:
    solver, calibration = calibrated(model, sequences, label)
    return replaceme.fit(solver, calibration, (BLOCK,), seed)


def found(fit: Fit) -> dict[Any, Tensor]:
    return {**fit.edit.transforms, **fit.edit.weights}


@pytest.fixture(scope="module")
def small(make_model: Make) -> Make:
    """A Llama of six layers, of a dtype."""
    return lambda dtype=torch.float32: make_model(num_hidden_layers=6).to(dtype)


# names and parameters


def test_every_solver_has_settings_here() -> None:
    assert {setting["name"] for setting in SETTINGS.values()} == SOLVERS.keys()


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_is_made_by_its_name(name: str) -> None:
    solver = make_solver(name)
    assert type(solver) is SOLVERS[name]
    assert solver.name == name
    assert solver.summary
    assert all(field.description for field in SOLVERS[name].model_fields.values())
    assert solver.identity == {
        "name": name,
        "version": solver.version,
        "parameters": solver.model_dump(mode="json"),
    }


def test_unknown_solver_names_the_nearest() -> None:
    known = r"Solvers are uidl, lstsq, cosine, relative, refit, reconstruct\.$"
    with pytest.raises(InputError, match=rf"^unknown solver 'lstqs'; did you mean 'lstsq'\? {known}"):
        make_solver("lstqs")
    with pytest.raises(InputError, match=rf"^unknown solver 'zzz'\. {known}"):
        make_solver("zzz")


@pytest.mark.parametrize(
    "name, parameters, message",
    [
        (
            "lstsq",
            {"rigde": 1.0},
            r"has no parameter 'rigde'; did you mean 'ridge'\? It has ridge, alpha",
        ),
        ("uidl", {"ridge": 0.1}, r"solver 'uidl' has no parameter 'ridge'\. It has none\."),
        ("lstsq", {"ridge": -1.0}, r"parameter ridge: .* greater than or equal to 0; got -1\.0"),
        ("relative", {"alpha": "x"}, r"parameter alpha: .*; got 'x'"),
        ("refit", {"ridge": 0.0}, r"parameter ridge: .* greater than 0; got 0\.0"),
        ("reconstruct", {"tokens": 0}, r"parameter tokens: .* greater than 0; got 0"),
        ("cosine", {"epochs": 0}, r"parameter epochs: .* greater than 0; got 0"),
        (
            "cosine",
            {"method": "irls", "shape": "diagonal"},
            r"solver 'cosine': method irls fits a full transform .*; shape diagonal .* go with adam",
        ),
    ],
)
def test_wrong_parameter_is_refused_by_name(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_solver(name, **parameters)


# precision


@every_solver
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fit_of_a_half_precision_model_is_that_of_the_same_model_in_float32(
    small: Make, sequences: Sequences, label: str, dtype: torch.dtype
) -> None:
    half = small(dtype)
    got, wanted = (fitted(model, sequences, label) for model in (half, small(dtype).float()))
    assert got.warning is None
    assert got.relative_error == pytest.approx(wanted.relative_error, rel=0.02)
    assert got.mean_cosine == pytest.approx(wanted.mean_cosine, rel=0.02)
    for key, values in found(got).items():
        assert values.isfinite().all()
        assert values.dtype == (torch.float64 if key in got.edit.transforms else dtype)


@pytest.mark.parametrize("label", ["lstsq", "lstsq-ridge", "lstsq-diagonal", "relative", "refit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_closed_forms_solve_the_problem_of_the_models_own_states(
    small: Make, sequences: Sequences, label: str, dtype: torch.dtype
) -> None:
    """The gradient of the objective, computed in float64 from those states, vanishes."""
    model = small(dtype)
    solver, calibration = calibrated(model, sequences, label)
    sample = calibration.statistics[BLOCK].sample
    assert len(sample) == calibration.tokens
    before, after = sample.before.double(), sample.after.double()
    rows = (sample.inputs if label == "refit" else sample.mlp).double()
    scale = {
        "relative": 1 / after.norm(dim=1),
        "refit": (before.norm(dim=1) * after.norm(dim=1)) ** -0.5,
    }
    scale = scale.get(label, torch.ones(len(after)))[:, None]
    rows, change = rows * scale, (after - before) * scale
    fit = replaceme.fit(solver, calibration, (BLOCK,))
    if label == "refit":
        name = "mlp.down_proj.weight"
        layer = model.model.layers[1]
        correction = (fit.edit.weights[1, name].double() - layer.get_parameter(name).double()).mT
    else:
        correction = fit.edit.transforms[1] - torch.eye(WIDTH)
    pull = getattr(solver, "ridge", 0.0) * rows.square().sum(0).median()
    slope = rows.mT @ (rows @ correction - change) + pull * correction
    if label == "lstsq-diagonal":
        slope = slope.diagonal()
        assert torch.equal(correction, correction.diagonal().diag())
    rounding = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}[dtype]
    tolerance = rounding if label == "refit" else 1e-5
    assert slope.norm() < tolerance * (rows.mT @ change).norm()


# scarce data


def tokens_of(sequences: Sequences, count: int) -> Sequences:
    """Sequences with so many tokens together."""
    flat = [token for ids in sequences for token in ids][:count]
    return [flat[i : i + 16] for i in range(0, count, 16)]


@every_solver
@pytest.mark.parametrize("tokens", [2, WIDTH - 1, WIDTH, INNER - 1])
def test_few_tokens_give_a_finite_fit_that_is_no_worse_than_removal(
    small: Make, sequences: Sequences, label: str, tokens: int
) -> None:
    fit = fitted(small(), tokens_of(sequences, tokens), label)
    assert fit.warning is None
    assert all(values.isfinite().all() for values in found(fit).values())
    assert fit.relative_error[1] <= fit.relative_error[0]
    if label in ("lstsq", "relative") and tokens < WIDTH:
        assert fit.notes["rank"] == tokens
        assert fit.relative_error[1] < 1e-4


def lower_rank(model: Any, rank: int) -> Any:
    """The model whose MLP before the block writes into ``rank`` directions only."""
    weight = model.model.layers[BLOCK.start - 1].mlp.down_proj.weight
    left, values, right = torch.linalg.svd(weight.data.double(), full_matrices=False)
    weight.data = (left[:, :rank] * values[:rank] @ right[:rank]).to(weight.dtype)
    return model


@every_solver
@pytest.mark.parametrize("tokens", [3 * WIDTH, 12 * WIDTH])
def test_fit_of_rank_deficient_states_is_finite_and_no_worse_than_removal(
    small: Make, sequences: Sequences, label: str, tokens: int
) -> None:
    fit = fitted(lower_rank(small(), 5), tokens_of(sequences, tokens), label)
    assert fit.warning is None
    assert all(values.isfinite().all() for values in found(fit).values())
    assert fit.relative_error[1] <= fit.relative_error[0]


@pytest.mark.parametrize(
    "label, tokens",
    [
        ("lstsq", 3 * WIDTH),
        ("relative", 3 * WIDTH),
        ("cosine-irls", 3 * WIDTH),
        ("cosine-irls", 12 * WIDTH),
        ("lstsq", 12 * WIDTH),
        ("relative", 12 * WIDTH),
    ],
)
def test_directions_that_the_states_do_not_have_are_left_alone(
    small: Make, sequences: Sequences, label: str, tokens: int
) -> None:
    model = lower_rank(small(), 5)
    solver, calibration = calibrated(model, tokens_of(sequences, tokens), label)
    mlp = calibration.statistics[BLOCK].sample.mlp.double()
    _, _, right = torch.linalg.svd(mlp)
    fit = replaceme.fit(solver, calibration, (BLOCK,))
    assert fit.notes["rank"] == 5
    missing = right[5:].mT
    torch.testing.assert_close(missing.mT @ fit.edit.transforms[1], missing.mT, rtol=0, atol=1e-3)


# determinism


@every_solver
def test_same_seed_gives_the_same_bytes(small: Make, sequences: Sequences, label: str) -> None:
    first, again, other = (fitted(small(), sequences, label, seed) for seed in (1, 1, 2))
    assert found(first).keys() == found(again).keys() == found(other).keys()
    assert all(torch.equal(values, found(again)[key]) for key, values in found(first).items())
    drawn = not all(torch.equal(values, found(other)[key]) for key, values in found(first).items())
    assert drawn == (label == "cosine")


@every_solver
def test_result_depends_on_the_batch_size_by_rounding_alone(
    small: Make, sequences: Sequences, label: str
) -> None:
    solver = make_solver(**SETTINGS[label])
    fits = []
    for batch_size in (1, 16):
        calibration = replaceme.calibrate(
            small(), Batches(sequences, batch_size), blocks=[(BLOCK,)], solvers=[solver]
        )
        fits.append(replaceme.fit(solver, calibration, (BLOCK,)))
    for key, values in found(fits[0]).items():
        torch.testing.assert_close(values, found(fits[1])[key], rtol=1e-3, atol=1e-3)


def test_solvers_ask_for_what_they_read() -> None:
    kinds = {label: make_solver(**settings).needs.moments for label, settings in SETTINGS.items()}
    whole = frozenset({Kind(of_input=True, rows="geometric")})
    assert kinds["uidl"] == kinds["cosine"] == kinds["cosine-irls"] == frozenset()
    assert kinds["lstsq"] == kinds["lstsq-diagonal"] == frozenset({Kind()})
    assert kinds["relative"] == frozenset({Kind(rows="relative")})
    assert kinds["refit"] == kinds["reconstruct"] == whole


# what takes long tells how far it is


def test_calibration_and_long_fits_tell_how_far_they_are(small: Make) -> None:
    sequences = [[i % 500 + 2 for i in range(start, start + 24)] for start in range(12)]
    passes: list[float] = []
    replaceme.calibrate(
        small(), Batches(sequences, 4), counts=[2], held_back_tokens=0, report=passes.append
    )
    assert passes == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    solver, calibration = calibrated(small(), sequences, "reconstruct")
    layers: list[float] = []
    replaceme.fit(solver, calibration, (BLOCK,), report=layers.append)
    assert layers == pytest.approx([5 / 6, 1])
