"""The file of answers: what was kept is found again, whatever happened to the file in between."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.scoring.answers import Answers, key
from bench.scoring.heads import Answer
from bench.scoring.trees import Request
from replaceme.errors import OutputError

SCOPE = {"model": "tiny", "dtype": "float32"}
BATCHES = [
    [Request((1, 2, 3), (4,)), Request((1, 2, 3), (5,))],
    [Request((1, 2), (2, 3)), Request((7,), (8,)), Request((1, 2, 3, 4), (5,))],
    [Request((9, 9), (9,))],
]
EVERY = [request for batch in BATCHES for request in batch]
VARIANTS = ["baseline", "uidl"]
GARBAGE = {
    "empty": b"",
    "blank": b"\n\n \n",
    "bytes": bytes(range(256)) * 3,
    "zeros": b"\0" * 512,
    "prose": "Es war einmal …\nund lebt noch heute.\n".encode("utf-16"),
    "number": b"5\n6\n",
    "null": b"null\n",
    "text": b'"scope"\n',
    "list": b'[{"scope": {}}]\n',
    "other mapping": b'{"requests": ["a"], "answers": {"uidl": [[0, true]]}}\n',
}


def answer(variant: str, request: Request) -> Answer:
    """Some answer that no other variant and request has."""
    number = 10 * VARIANTS.index(variant) + EVERY.index(request)
    return Answer(-(number + 0.1) / 3, number % 2 == 0)


def keep(answers: Answers, batches: Iterable[list[Request]], variants: list[str] = VARIANTS) -> None:
    for batch in batches:
        answers.keep(batch, {name: [answer(name, request) for request in batch] for name in variants})


def known(answers: Answers, requests: Iterable[Request] = EVERY) -> list[Request]:
    """The requests of which all variants' answers are known; checks the answers."""
    found = [request for request in requests if not answers.lacking(VARIANTS, [request])]
    for request in found:
        for name in VARIANTS:
            assert answers.of(name, request) == answer(name, request)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores" / "answers.jsonl"


@pytest.fixture
def kept(path: Path) -> Path:
    """A file of three batches, computed with 512 tokens a batch."""
    answers = Answers(path, SCOPE)
    answers.budget = 512
    keep(answers, BATCHES)
    return path


def test_what_was_kept_is_read_again(kept: Path) -> None:
    again = Answers(kept, dict(reversed(SCOPE.items())))
    assert known(again) == EVERY
    assert again.budget == 512


def test_each_batch_is_in_the_file_as_soon_as_it_is_kept(path: Path) -> None:
    answers = Answers(path, SCOPE)
    assert not path.exists()
    for done, batch in enumerate(BATCHES, start=1):
        keep(answers, [batch])
        assert known(Answers(path, SCOPE)) == [r for batch in BATCHES[:done] for r in batch]


def test_variants_and_batches_may_come_one_after_the_other(path: Path) -> None:
    keep(Answers(path, SCOPE), BATCHES[1:], ["uidl"])
    answers = Answers(path, SCOPE)
    assert answers.lacking(VARIANTS, EVERY) == VARIANTS
    assert answers.lacking(VARIANTS, BATCHES[1] + BATCHES[2]) == ["baseline"]
    keep(answers, BATCHES, ["baseline"])
    assert Answers(path, SCOPE).lacking(VARIANTS, EVERY) == ["uidl"]
    keep(answers, BATCHES[:1], ["uidl"])
    assert known(Answers(path, SCOPE)) == EVERY


def test_the_budget_that_was_decided_first_stays_in_the_file(kept: Path) -> None:
    answers = Answers(kept, SCOPE)
    answers.budget = 256
    keep(answers, BATCHES[:1])
    assert Answers(kept, SCOPE).budget == 512


def test_nothing_is_known_without_a_file(path: Path) -> None:
    answers = Answers(path, SCOPE)
    assert answers.budget is None
    assert answers.lacking(VARIANTS, EVERY) == VARIANTS
    with pytest.raises(KeyError):
        answers.of("uidl", EVERY[0])


@pytest.mark.parametrize("scope", [{}, None, SCOPE | {"dtype": "bfloat16"}, SCOPE | {"more": "1"}])
def test_answers_of_another_scope_are_not_read(kept: Path, scope: dict[str, str] | None) -> None:
    answers = Answers(kept, scope)
    assert answers.budget is None
    assert known(answers) == []


def test_answers_of_another_scope_are_lost_with_the_first_new_one(kept: Path) -> None:
    before = kept.read_bytes()
    other = SCOPE | {"dtype": "bfloat16"}
    answers = Answers(kept, other)
    assert kept.read_bytes() == before
    answers.budget = 1024
    keep(answers, BATCHES[:1])
    keep(answers, BATCHES[2:])
    assert known(Answers(kept, SCOPE)) == []
    again = Answers(kept, other)
    assert known(again) == BATCHES[0] + BATCHES[2]
    assert again.budget == 1024


def test_a_torn_last_line_loses_only_its_batch(kept: Path) -> None:
    whole = kept.read_bytes().rstrip(b"\n")
    first_two = BATCHES[0] + BATCHES[1]
    for end in range(whole.rindex(b"\n") + 1, len(whole)):
        kept.write_bytes(whole[:end])
        answers = Answers(kept, SCOPE)
        assert known(answers) == first_two
        assert answers.budget == 512
        keep(answers, BATCHES[2:])
        assert known(Answers(kept, SCOPE)) == EVERY


def test_a_last_line_that_only_lacks_its_end_is_read(kept: Path) -> None:
    kept.write_bytes(kept.read_bytes().rstrip(b"\n"))
    assert known(Answers(kept, SCOPE)) == EVERY
    keep(Answers(kept, SCOPE), BATCHES[:1])
    assert known(Answers(kept, SCOPE)) == EVERY


def test_a_file_torn_anywhere_keeps_the_whole_lines_before(kept: Path) -> None:
    whole = kept.read_bytes()
    for end in range(len(whole)):
        kept.write_bytes(whole[:end])
        found = known(Answers(kept, SCOPE))
        assert found == EVERY[: len(found)]
        keep(Answers(kept, SCOPE), BATCHES)
        assert known(Answers(kept, SCOPE)) == EVERY


def test_torn_lines_may_be_followed_by_others(kept: Path) -> None:
    for _ in range(3):
        kept.write_bytes(kept.read_bytes().rstrip(b"\n")[:-5])
        answers = Answers(kept, SCOPE)
        assert known(answers) == BATCHES[0] + BATCHES[1]
        keep(answers, BATCHES[2:])
    assert known(Answers(kept, SCOPE)) == EVERY


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("scope", [SCOPE, None], ids=["scope", "no scope"])
def test_a_file_of_something_else_is_replaced(
    path: Path, content: bytes, scope: dict[str, str] | None
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    answers = Answers(path, scope)
    assert answers.budget is None
    assert answers.lacking(VARIANTS, EVERY) == VARIANTS
    keep(answers, BATCHES)
    assert known(Answers(path, scope)) == EVERY


def test_lines_of_something_else_in_a_file_are_skipped(kept: Path) -> None:
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(line + b"\xff\0 broken\n\n" for line in lines))
    assert known(Answers(kept, SCOPE)) == EVERY


@pytest.mark.parametrize("content", [b"5", b"null", b"[]", b'"x"'], ids=repr)
def test_json_of_another_kind_in_a_file_is_skipped(kept: Path, content: bytes) -> None:
    with kept.open("ab") as file:
        file.write(b"\n" + content + b"\n")
    assert known(Answers(kept, SCOPE)) == EVERY


def test_infinite_and_undefined_answers_survive(path: Path) -> None:
    values = [-math.inf, math.nan, -0.0, -1e-300, -12345.678901234567, -1 / 3]
    requests = [Request((number,), (number,)) for number in range(len(values))]
    Answers(path, SCOPE).keep(requests, {"uidl": [Answer(value, False) for value in values]})
    again = Answers(path, SCOPE)
    found = [again.of("uidl", request).loglikelihood for request in requests]
    assert list(map(repr, found)) == list(map(repr, values))


@given(st.lists(st.tuples(st.floats(), st.booleans()), min_size=1, max_size=8))
@settings(max_examples=50)
def test_every_float_survives(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[float, bool]]
) -> None:
    path = tmp_path_factory.mktemp("floats") / "answers.jsonl"
    requests = [Request((number,), (0,)) for number in range(len(found))]
    Answers(path).keep(requests, {"uidl": [Answer(*one) for one in found]})
    again = Answers(path)
    for request, (loglikelihood, greedy) in zip(requests, found, strict=True):
        assert repr(again.of("uidl", request).loglikelihood) == repr(loglikelihood)
        assert again.of("uidl", request).greedy is greedy


def test_divergences_survive_to_the_last_bit(path: Path) -> None:
    values = array("f", [0.0, 1e-30, 0.1, 1 / 3, 12.5, math.inf])
    Answers(path, SCOPE).keep(EVERY[:1], {"uidl": [Answer(-1.0, True, values)]})
    assert Answers(path, SCOPE).of("uidl", EVERY[0]).divergences == values


def test_answers_of_older_releases_without_divergences_are_asked_for_again(kept: Path) -> None:
    lines = [json.loads(line) for line in kept.read_text().splitlines() if line]
    for line in lines[2:]:
        line["answers"] = {name: [row[:2] for row in rows] for name, rows in line["answers"].items()}
    kept.write_text("\n".join(map(json.dumps, lines)))
    answers = Answers(kept, SCOPE)
    assert known(answers) == BATCHES[0]
    keep(answers, BATCHES[1:])
    assert known(Answers(kept, SCOPE)) == EVERY


def test_variants_that_lack_an_answer_are_named_in_the_order_asked_for() -> None:
    answers = Answers()
    keep(answers, BATCHES[:1])
    keep(answers, BATCHES[1:2], ["uidl"])
    assert answers.lacking(VARIANTS, BATCHES[0]) == []
    assert answers.lacking(VARIANTS, BATCHES[0] + BATCHES[1]) == ["baseline"]
    assert answers.lacking(["uidl", "new", "baseline"], EVERY) == ["uidl", "new", "baseline"]
    assert answers.lacking(["new", "uidl", "baseline"], BATCHES[1]) == ["new", "baseline"]
    assert answers.lacking([*VARIANTS, "new"], []) == []
    assert answers.lacking([], EVERY) == []


def test_an_answer_that_is_kept_again_is_replaced(path: Path) -> None:
    answers = Answers(path)
    (request,) = BATCHES[2]
    for loglikelihood in (-1.0, -2.0):
        answers.keep([request], {"uidl": [Answer(loglikelihood, True)]})
    assert answers.of("uidl", request) == Answers(path).of("uidl", request) == Answer(-2.0, True)


def test_answers_without_a_path_are_kept_in_memory_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answers = Answers(scope=SCOPE)
    keep(answers, BATCHES)
    assert known(answers) == EVERY
    assert known(Answers(scope=SCOPE)) == []
    assert not [*tmp_path.iterdir()]


def test_a_path_below_a_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused_at(tmp_path / "file" / "answers.jsonl")
    refused_at(tmp_path / "file" / "folder" / "answers.jsonl")


def test_a_path_of_a_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    refused_at(tmp_path)


def refused_at(path: Path) -> None:
    answers = Answers(path, SCOPE)
    assert answers.budget is None
    with pytest.raises(OutputError) as refused:
        keep(answers, BATCHES)
    assert re.fullmatch(rf"{re.escape(str(path))} cannot be written: [A-Z][a-z ]+\.", str(refused.value))


def test_the_file_is_lines_of_json_that_say_what_they_depend_on(kept: Path) -> None:
    first, *batches = [json.loads(line) for line in kept.read_text("utf-8").splitlines() if line]
    assert first == {"scope": SCOPE, "budget": 512}
    assert [batch["requests"] for batch in batches] == [[*map(key, batch)] for batch in BATCHES]
    assert all([*batch["answers"]] == VARIANTS for batch in batches)


def test_names_of_requests_tell_context_from_continuation() -> None:
    requests = [
        Request((1, 2, 3), (4,)),
        Request((1, 2, 3), (3, 4)),
        Request((1, 2), (4,)),
        Request((1, 23), (4,)),
        Request((12, 3), (4,)),
    ]
    assert len(set(map(key, requests))) == len(requests)
    assert key(Request((1, 2, 3), (4,))) == key(requests[0]) == "4b9b0aa042d9fe2541ddaf80"
