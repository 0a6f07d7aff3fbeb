"""Requests that several tasks ask are answered once, and alike in whatever order that is done."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.run.executors import balance
from bench.run.stages.pool import Asked, Pool
from bench.scoring.answers import Answers
from bench.scoring.heads import Answer
from bench.scoring.trees import Request, Tree, grow, make_batches

CELLS: list[Any] = [SimpleNamespace(stem=stem) for stem in ("baseline", "lstsq", "uidl")]
REQUESTS = [Request((token, other), (token,)) for token in range(6) for other in range(2)]
TASKS = st.lists(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=9), min_size=1, max_size=4)


def ask(name: str, requests: Sequence[Request], cells: Sequence[Any] = CELLS) -> Asked:
    task: Any = SimpleNamespace(name=name)
    return Asked(task, SimpleNamespace(), [*cells], [*requests])  # type: ignore[arg-type]


def arrange(requests: Sequence[Request]) -> list[list[Tree]]:
    return [*make_batches(grow(requests, 0.0, 4), 6)]


def answer_in(trees: list[Tree]) -> tuple[list[Request], dict[str, list[Answer]]]:
    """Answers that tell which batch they come from."""
    requests = [request for tree in trees for request in tree.tails]
    value = float(hash(tuple(sorted(requests))) % 2**40)
    return requests, {cell.stem: [Answer(value, True)] * len(requests) for cell in CELLS}


def run(path: Path, tasks: list[list[Request]], done: set[str], order: random.Random, most: int) -> None:
    """Answer tasks batch by batch in a random order, until so many batches are answered."""
    known = Answers(path)
    asked = [ask(f"task {n}", requests) for n, requests in enumerate(tasks) if f"task {n}" not in done]
    pool = Pool(known, asked)
    portions = pool.portion([arrange(own) for own in pool.divide()], asked)
    single = [replace(one, batches=[trees]) for one in portions for trees in one.batches]
    order.shuffle(single)
    for part in single[:most]:
        requests, answers = answer_in(part.batches[0])
        known.keep(requests, {stem: answers[stem] for stem in part.variants}, part.owner)
        pool.keep(requests)
        for one in pool.pop_answered():
            assert not known.lacking(one.stems, one.requests)
            done.add(one.name)
    done.update(one.name for one in pool.pop_answered())


@settings(deadline=None, max_examples=200)
@given(TASKS, st.randoms(use_true_random=False), st.lists(st.integers(0, 4), max_size=3))
def test_answers_are_those_of_the_same_batches_whenever_a_run_was_interrupted(
    tasks: list[list[Request]], order: random.Random, interruptions: list[int]
) -> None:
    with TemporaryDirectory() as folder:
        whole, done = Path(folder) / "whole.jsonl", set[str]()
        run(whole, tasks, done, random.Random(0), 1000)
        assert done == {f"task {n}" for n in range(len(tasks))}
        parts, done = Path(folder) / "parts.jsonl", set[str]()
        for most in [*interruptions, 1000]:
            run(parts, tasks, done, order, most)
        assert done == {f"task {n}" for n in range(len(tasks))}
        one, two = Answers(whole), Answers(parts)
        for cell in CELLS:
            for request in {request for requests in tasks for request in requests}:
                assert one.of(cell.stem, request) == two.of(cell.stem, request)


def test_each_request_belongs_to_the_first_task_that_asks_it() -> None:
    a, b = ask("a", REQUESTS[:3]), ask("b", REQUESTS[1:5])
    assert Pool(Answers(), [a, b]).divide() == [REQUESTS[:3], REQUESTS[3:5]]


def test_batch_of_a_task_that_is_not_answered_is_answered_for_those_that_need_it() -> None:
    """b asks one of a's two batches as well, of the two cells that it lacks; a is left out."""
    a, b = ask("a", REQUESTS[:4]), ask("b", [REQUESTS[0], REQUESTS[5]], CELLS[1:])
    pool = Pool(Answers(), [a, b])
    arranged = [[grow(part, 0.0, 4) for part in parts] for parts in _halves(pool.divide())]
    found = pool.portion(arranged, [b])
    assert [(one.owner, one.asker, one.variants, [*one.requests]) for one in found] == [
        ("a", b, ["lstsq", "uidl"], REQUESTS[:2]),
        ("b", b, ["lstsq", "uidl"], [REQUESTS[5]]),
    ]
    assert pool.pop_answered() == []
    assert pool.pop() == [b]


def test_what_fails_for_a_task_is_tried_for_the_others_that_need_it() -> None:
    a, b = ask("a", REQUESTS[:4]), ask("b", [REQUESTS[0], REQUESTS[5]])
    pool = Pool(Answers(), [a, b])
    arranged = [[grow(part, 0.0, 4) for part in parts] for parts in _halves(pool.divide())]
    whole, _ = pool.portion(arranged, [a, b])
    assert [*whole.requests] == REQUESTS[:4]
    assert pool.pop([a]) == [a]
    (again,) = pool.pass_on(whole)
    assert (again.owner, again.asker, [*again.requests]) == ("a", b, REQUESTS[:2])
    assert pool.pop([a]) == []
    pool.pop([b])
    assert pool.pass_on(again) == []


def _halves(divided: list[list[Request]]) -> list[list[list[Request]]]:
    return [[own[i : i + 2] for i in range(0, len(own), 2)] for own in divided]


def test_request_that_a_task_lacks_which_is_done_is_asked_again() -> None:
    """The answers of an earlier run are there for one cell, and its task is not asked any more."""
    known = Answers()
    known.keep(REQUESTS[:2], {"lstsq": [Answer(-1.0, True)] * 2}, "gone")
    pool = Pool(known, [ask("b", REQUESTS[:2], CELLS[1:])])
    assert pool.divide() == [REQUESTS[:2]]
    pool = Pool(known, [ask("b", REQUESTS[:2], CELLS[1:2])])
    assert pool.divide() == [[]]
    assert pool.portion([[]], pool.asked) == []
    assert pool.pop_answered() == pool.asked


@given(st.lists(st.integers(1, 100), max_size=12), st.integers(1, 5))
def test_work_is_balanced(sizes: list[int], parts: int) -> None:
    """No part is larger than the mean by more than the largest piece."""
    shares = balance(sizes, parts, float)
    assert sorted(one for share in shares for one in share) == sorted(sizes)
    assert len(shares) == min(parts, len(sizes))
    assert all(sum(share) <= sum(sizes) / len(shares) + max(sizes) for share in shares)


def test_request_of_a_task_that_asks_it_no_more_is_asked_by_another() -> None:
    """The suite was changed after an interruption, and a variant came."""
    known = Answers()
    known.keep(REQUESTS[:1], {"lstsq": [Answer(-1.0, True)]}, "a")
    pool = Pool(known, [ask("a", REQUESTS[2:3]), ask("b", REQUESTS[:1], CELLS[1:])])
    assert pool.divide() == [REQUESTS[2:3], REQUESTS[:1]]
