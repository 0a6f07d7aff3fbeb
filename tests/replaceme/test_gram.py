"""Gram matrices, and the systems that are solved with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from replaceme.gram import add_gram, compute_gram
from replaceme.solvers.linear import find_correction, solve_psd, solve_ridge


@pytest.mark.parametrize("width", [1, 127, 128, 129, 700, 1025])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_gram_is_the_product_with_itself(width: int, dtype: torch.dtype, tolerance: float) -> None:
    rows = torch.randn(50, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = compute_gram(rows)
    exact = rows.numpy().astype(np.float64)
    assert found.dtype == torch.float64
    twice = add_gram(found.clone(), rows)
    assert torch.equal(twice, 2 * found)
    assert np.abs(found.numpy() - exact.T @ exact).max() < tolerance * 50


def test_rows_may_be_a_part_of_a_larger_matrix() -> None:
    whole = torch.randn(60, 300, generator=torch.Generator().manual_seed(0))
    rows = whole[::2, 7:250]
    torch.testing.assert_close(compute_gram(rows), (rows.mT @ rows).double())


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
@pytest.mark.parametrize("tokens", [20, 200])
def test_correction_solves_the_penalised_system(tokens: int, ridge: float) -> None:
    chance = torch.Generator().manual_seed(0)
    rows = torch.randn(tokens, 40, generator=chance, dtype=torch.float64)
    cross = rows.mT @ torch.randn(tokens, 6, generator=chance, dtype=torch.float64)
    gram = rows.mT @ rows
    penalty = ridge * float(np.sort(gram.diagonal())[19])  # the lower median
    wanted = np.linalg.solve(gram.numpy() + penalty * np.eye(40), cross.numpy())
    before = gram.clone()
    np.testing.assert_allclose(find_correction(gram, cross, ridge), wanted, rtol=1e-8)
    np.testing.assert_allclose(solve_ridge(gram, cross, ridge)[0], wanted, rtol=1e-8)
    assert torch.equal(gram, before)


@pytest.mark.parametrize("what", ["no data", "no numbers", "as good as no penalty"])
def test_correction_of_what_is_not_regular_is_that_of_the_careful_way(what: str) -> None:
    rows = torch.randn(20, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows *= {"no data": 0.0, "no numbers": torch.nan}.get(what, 1.0)
    gram, cross = rows.mT @ rows, rows.mT @ torch.ones(20, 3, dtype=torch.float64)
    wanted, _ = solve_ridge(gram, cross, 1e-16)
    found = find_correction(gram, cross, 1e-16)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    assert bool(found.isfinite().all()) == (what != "no numbers")


@pytest.mark.parametrize("size", [511, 512, 513, 1100])
def test_matrices_of_several_panels_are_solved_as_numpy_does_and_are_as_before(size: int) -> None:
    chance = torch.Generator().manual_seed(size)
    rows = torch.randn(2 * size, size, generator=chance, dtype=torch.float64)
    gram, rhs = rows.mT @ rows, torch.randn(size, 3, generator=chance, dtype=torch.float64)
    gram = (gram + gram.mT) / 2
    before = gram.clone()
    found, notes = solve_psd(gram, rhs)
    values = np.linalg.eigvalsh(gram.numpy())
    np.testing.assert_allclose(found, np.linalg.solve(gram.numpy(), rhs.numpy()), rtol=1e-8)
    assert notes["rank"] == size
    assert notes["condition"] == pytest.approx(values[-1] / values[0], rel=0.2)
    assert torch.equal(gram, before)


def test_matrix_whose_last_panel_has_no_factor_is_solved_over_its_eigenvectors() -> None:
    chance = torch.Generator().manual_seed(0)
    rows = torch.randn(600, 700, generator=chance, dtype=torch.float64)
    gram = rows.mT @ rows
    gram = (gram + gram.mT) / 2
    before, rhs = gram.clone(), gram @ torch.ones(700, 1, dtype=torch.float64)
    found, notes = solve_psd(gram, rhs)
    wanted = np.linalg.pinv(rows.numpy()) @ (rows.numpy() @ np.ones((700, 1)))
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    assert notes["rank"] == 600
    assert torch.equal(gram, before)
