"""Sums over calibration tokens have the same bits whoever adds them up."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch

from replaceme import Batches, Block, make_solver
from replaceme.calibrating import Calibrator, Moments, conclude
from replaceme.compat.reference import ReferenceBatches
from replaceme.room import Room
from replaceme.sums import PARTS, Portion, Sum, count_parts
from tests.families import FAMILIES, small
from tests.replaceme.test_traversal import Ways, same

CUTS = [[8], [4, 4], [1, 5, 2], [1] * 8]


@pytest.fixture(scope="module", params=["llama", "falcon", "mixtral"])
def model(request: pytest.FixtureRequest) -> Any:
    family = FAMILIES[request.param]
    return small(family.model_type, **family.settings).eval()


@pytest.fixture(scope="module")
def batches(sequences: list[list[int]]) -> Batches:
    return Batches(sequences[:30], 2)


def calibrator_of(model: Any, batches: Batches, **settings: Any) -> Calibrator:
    solvers = [make_solver(name) for name in ("lstsq", "refit", "cosine")]
    return Calibrator(model, batches, solvers=solvers, **settings)


def send(value: Any) -> Any:
    """What arrives in another process."""
    return pickle.loads(pickle.dumps(value))


def extend(total: Any, later: Any) -> Any:
    total.extend(later)
    return total


def calibrated_in(sizes: Sequence[int], workers: list[Calibrator]) -> tuple[Any, Any]:
    """Distances and statistics where portions of so many parts each are summed up apart."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    shares = [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    pairs = [*zip(shares, workers * len(shares), strict=False)]
    choices: dict[int, Any] = {}
    distances = None
    if workers[0].counts:
        total = reduce(extend, [send(worker.sum_distances(share)) for share, worker in pairs])
        distances, choices = workers[0].choose(total)
    sums = [send(worker.sum_moments(choices, share)) for share, worker in pairs]
    moments: Moments = reduce(extend, sums)
    found = conclude(distances, choices, moments, 0.0)
    return found.distances, (found.statistics, found.following)


@pytest.mark.parametrize("sizes", CUTS, ids=str)
def test_any_workers_find_what_one_finds(model: Any, batches: Batches, sizes: list[int]) -> None:
    workers = [calibrator_of(model, batches, counts=[1, 2]) for _ in range(2)]
    wanted = workers[0].calibrate()
    distances, (statistics, _) = calibrated_in(sizes, workers)
    assert same(distances, wanted.distances)
    assert same(statistics, wanted.statistics)


def test_any_workers_find_what_the_published_code_does(model: Any, batches: Batches) -> None:
    settings = {"blocks": [(Block(1, 2), Block(2, 4))], "compat_reference": True}
    worker = calibrator_of(model, batches, **settings)
    wanted = worker.calibrate()
    _, (statistics, following) = calibrated_in([3, 3, 2], [worker])
    assert wanted.following
    assert same(statistics, wanted.statistics)
    assert same(following, wanted.following)


def test_workers_that_read_the_model_layer_by_layer_find_the_same(
    sequences: list[list[int]], tmp_path: Path
) -> None:
    whole = small("llama", **FAMILIES["llama"].settings).eval()
    whole.save_pretrained(tmp_path)
    batches = Batches(sequences[:20], 2)
    wanted = calibrator_of(whole, batches, counts=[2]).calibrate()
    room = Room(lambda: 0)
    walked = Ways(whole, tmp_path).walked().model
    found = calibrated_in([2, 6], [calibrator_of(walked, batches, counts=[2], room=room)])
    assert same(found, (wanted.distances, (wanted.statistics, {})))


def test_parts_in_another_order_differ_in_the_last_bit() -> None:
    """So that the tests above can fail."""
    values = torch.rand(PARTS, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cpu = torch.device("cpu")

    def added(order: Sequence[int]) -> torch.Tensor:
        total = Sum()
        for part, number in enumerate(order):
            total.of_part(part, (100,), cpu).add_(values[number])
        return total.total().read()

    straight, back = added(range(PARTS)), added(range(PARTS)[::-1])
    torch.testing.assert_close(straight, values.sum(0))
    torch.testing.assert_close(back, straight)
    assert not torch.equal(back, straight)


def test_sum_that_was_sent_can_be_sent_again() -> None:
    """As when the worker that it was sent to dies."""
    total = Sum()
    for part in range(3):
        total.of_part(part, (2,), torch.device("cpu")).add_(part + 1.0)
    assert [send(total).total().read().tolist() for _ in range(2)] == [[6.0, 6.0]] * 2


@pytest.mark.parametrize("kind", [Batches, ReferenceBatches])
@pytest.mark.parametrize("count", [1, 3, 7, 8, 9, 29, 30])
def test_every_batch_is_in_one_part(kind: type[Batches], count: int) -> None:
    batches = kind([[3, 4, 5]] * count, 1)
    parts = count_parts(batches)
    portions = [Portion(batches, range(part, part + 1)) for part in range(parts)]
    assert parts == min(count, PARTS)
    assert max(map(len, portions)) - min(map(len, portions)) <= 1
    assert [len([*portion]) for portion in portions] == [*map(len, portions)]
    ranks = [batch.ranks.tolist() for portion in portions for batch in portion]
    assert ranks == [batch.ranks.tolist() for batch in batches]
    for part, portion in enumerate(portions):
        assert {portion.part_of(number) for number in range(len(portion))} == {part}
    whole = Portion.whole(batches)
    numbers = [whole.part_of(number) for number in range(count)]
    assert numbers == [part for part, portion in enumerate(portions) for _ in range(len(portion))]
