"""Agreement with the published implementation; see oracle/README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from replaceme.calibration import Batches
from replaceme.fitting import fit
from replaceme.pruning import Calibration, calibrate
from replaceme.selection import Block
from replaceme.solvers import Cosine, Lstsq, Solver, Uidl
from replaceme.statistics import TokenSample
from replaceme.surgery import write_checkpoint

ORACLE = Path(__file__).parent / "oracle"
EXPECTED: dict[str, Any] = json.loads((ORACLE / "oracle.json").read_text("utf-8"))
COUNTS = (2, 3, 4)
CLOSED: dict[str, Solver] = {"uidl": Uidl(), "lstsq": Lstsq(), "lstsq_ridge1": Lstsq(alpha=1.0)}
COSINE = {"cos_n2": Cosine(), "cos_accurate_n2": Cosine(exact=True)}
CLOSED_CASES = [f"{name}_n{n}" for name in CLOSED for n in COUNTS]


def solver_of(case: str) -> Solver:
    return CLOSED[case.rpartition("_")[0]]


def block_of(case: str) -> Block:
    return Block(*EXPECTED["blocks"][case])


def frobenius_error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(ORACLE / "model").eval()


@pytest.fixture(scope="module")
def transforms() -> dict[str, Tensor]:
    return load_file(ORACLE / "transforms.safetensors")


@pytest.fixture(scope="module")
def logits() -> dict[str, Tensor]:
    return load_file(ORACLE / "logits.safetensors")


@pytest.fixture(scope="module")
def as_reference(model: Any) -> Calibration:
    batches = Batches(EXPECTED["sequences"], batch_size=4)
    return calibrate(model, batches, counts=COUNTS, compat_reference=True)


@pytest.fixture(scope="module")
def as_designed(model: Any) -> Calibration:
    return calibrate(model, Batches(EXPECTED["sequences"]), counts=COUNTS)


def in_text_order(sample: TokenSample) -> TokenSample:
    """The tokens of a full sample in the order of the texts, as the reference's shuffles count them."""
    sequences = EXPECTED["sequences"]
    ranks = torch.cat([batch.ranks for batch in Batches(sequences)])
    longest_first = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    lengths = [len(sequences[i]) for i in longest_first]
    parts = dict(zip(longest_first, ranks.split(lengths), strict=True))
    order = torch.cat([parts[i] for i in range(len(sequences))])
    return TokenSample(sample.mlp[order], sample.before[order], sample.after[order])


def replayed(case: str, calibration: Calibration) -> Tensor:
    orders = load_file(ORACLE / "shuffles.safetensors")["orders"].long()
    sample = in_text_order(calibration.moments[block_of(case)].sample)
    return COSINE[case].descend(sample, iter(orders))[0]


def transform_of(case: str, calibration: Calibration) -> Tensor | None:
    if case in COSINE:
        return replayed(case, calibration)
    return fit(solver_of(case), calibration.moments[block_of(case)]).transform


@pytest.mark.parametrize("count", COUNTS)
def test_distances_equal_the_reference(as_reference: Calibration, count: int) -> None:
    wanted = torch.tensor(EXPECTED["distances"][str(count)], dtype=torch.float64)
    assert as_reference.distances is not None
    got = as_reference.distances.diagonal(count)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() < 1e-6


@pytest.mark.parametrize("case", CLOSED_CASES)
def test_chosen_block_equals_the_reference(as_reference: Calibration, case: str) -> None:
    assert as_reference.choices[int(case[-1])].block == block_of(case)


@pytest.mark.parametrize("case", [case for case in CLOSED_CASES if not case.startswith("uidl")])
def test_least_squares_transform_equals_the_reference(
    as_reference: Calibration, transforms: dict[str, Tensor], case: str
) -> None:
    transform = transform_of(case, as_reference)
    assert transform is not None
    assert frobenius_error(transform, transforms[case]) < 1e-5


@pytest.mark.parametrize("case", COSINE)
def test_cosine_transform_equals_the_reference_with_its_shuffles(
    as_reference: Calibration, transforms: dict[str, Tensor], case: str
) -> None:
    got = replayed(case, as_reference)
    assert frobenius_error(got, transforms[case]) < 1e-3
    # entries move by 1e-3; Adam turns the sign of a vanishing gradient, noise, into a few outliers
    assert (got - transforms[case]).abs().quantile(0.95) < 1e-6


@pytest.mark.parametrize("case", [*CLOSED_CASES, *COSINE])
def test_logits_of_the_written_checkpoint_equal_the_reference(
    as_reference: Calibration, logits: dict[str, Tensor], case: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    dtype = None if case.startswith("uidl") else "bfloat16"
    transform = transform_of(case, as_reference)
    write_checkpoint(ORACLE / "model", tmp_path / "out", block_of(case), transform, {}, dtype=dtype)
    pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        got = pruned(torch.tensor([EXPECTED["prompt"]])).logits[0, ::3]
    wanted = logits[case]
    tolerance = 1e-5 if dtype is None else 1e-2
    assert (got - wanted).abs().max() < tolerance * wanted.abs().max()


@pytest.mark.parametrize("count", COUNTS)
def test_last_block_is_compared_before_the_final_norm(
    model: Any, as_designed: Calibration, states_alone: Any, count: int
) -> None:
    states = states_alone(model, EXPECTED["sequences"])
    before, after = (states.layers[i][states.last_tokens] for i in (-1 - count, -1))
    cosine = torch.cosine_similarity(before, after, dim=-1)
    wanted = (cosine.arccos() / torch.pi).mean()
    assert as_designed.distances is not None
    assert abs(as_designed.distances[-1 - count, -1] - wanted) < 1e-6
    assert abs(wanted - EXPECTED["distances"][str(count)][-1]) > 1e-4


def test_last_block_is_fitted_before_the_final_norm(model: Any, states_alone: Any) -> None:
    block = block_of("lstsq_n2")
    batches = Batches(EXPECTED["sequences"])
    moments = calibrate(model, batches, blocks=[block]).moments[block]
    states = states_alone(model, EXPECTED["sequences"])
    mlp, entry = states.mlps[block.start - 1], states.layers[block.start - 1]
    wanted = torch.linalg.lstsq(mlp, states.layers[-1] - (entry - mlp)).solution
    got = fit(Lstsq(), moments).transform
    assert got is not None
    assert frobenius_error(got, wanted) < 1e-5
