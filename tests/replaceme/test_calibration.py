"""Data sets in every form → token sequences → batches."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from replaceme.calibration import Batches, CalibrationData, load_sequences, tokenize, windows
from replaceme.errors import InputError

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def with_bos(tokenizer: Any) -> Any:
    """The same tokenizer, but it puts a BOS before every text."""
    from tokenizers import processors

    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
    )
    return changed


def write_rows(path: Path, rows: Rows) -> Path:
    """A table file of the kind that the suffix says."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def data(path: Path, **settings: Any) -> CalibrationData:
    return CalibrationData(dataset=str(path), **settings)


@pytest.fixture
def rows(texts: list[str]) -> Rows:
    return [{"text": text, "number": i} for i, text in enumerate(texts[:20])]


# windows of a text file


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("length", [16, 33])
def test_text_file_is_cut_into_consecutive_windows(
    tokenizer: Any, with_bos: Any, prose: str, tmp_path: Path, bos: bool, length: int
) -> None:
    (tmp_path / "a.txt").write_text(prose[:3000], "utf-8")
    chosen = with_bos if bos else tokenizer
    got = load_sequences(data(tmp_path / "a.txt", max_length=length, samples=10_000), chosen)
    ids = tokenizer(prose[:3000])["input_ids"]
    assert {len(window) for window in got} == {length}
    if bos:
        assert {window[0] for window in got} == {tokenizer.bos_token_id}
    joined = [token for window in got for token in window[int(bos) :]]
    assert joined == ids[: len(joined)]
    assert len(ids) - len(joined) < length


def test_text_file_gives_no_more_windows_than_samples(tokenizer: Any, prose: str) -> None:
    some, all_ = (windows(prose[:3000], tokenizer, 16, count) for count in (5, None))
    assert some == all_[:5]
    assert len(all_) > 5


def test_text_shorter_than_a_window_is_one_sequence(with_bos: Any, tokenizer: Any) -> None:
    assert windows("Some words.", with_bos, 256) == [[0, *tokenizer("Some words.")["input_ids"]]]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b" \n"])
def test_empty_file_is_refused(tokenizer: Any, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        InputError, match=rf"calibration dataset '.*{name}' (holds no text|cannot be read)"
    ):
        load_sequences(data(tmp_path / name), tokenizer)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_file_that_is_not_what_its_name_says_is_refused(
    tokenizer: Any, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00\x80" * 100)
    with pytest.raises(InputError, match=rf"calibration dataset '.*{name}' cannot be read: ") as error:
        load_sequences(data(tmp_path / name), tokenizer)
    assert "\n" not in str(error.value)


# tables


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "folder"])
def test_table_rows_become_one_sequence_each(
    tokenizer: Any, rows: Rows, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        write_rows(path / "train.jsonl", rows)
    else:
        write_rows(path, rows)
    got = load_sequences(data(path, max_length=32), tokenizer)
    assert got == [tokenizer(row["text"])["input_ids"][:32] for row in rows]
    assert max(map(len, got)) == 32


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_seed_decides_which_rows_are_taken(
    tokenizer: Any, rows: Rows, tmp_path: Path, suffix: str
) -> None:
    path = write_rows(tmp_path / f"a.{suffix}", rows)
    first, again, other = (
        load_sequences(data(path, samples=5, seed=seed), tokenizer) for seed in (1, 1, 2)
    )
    everything = [tokenizer(row["text"])["input_ids"][:256] for row in rows]
    assert first == again != other
    assert len(first) == 5
    assert all(sequence in everything for sequence in first)


def test_other_column_is_read_on_request(tokenizer: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"body": "Some words.", "text": "no"}])
    assert load_sequences(data(path, column="body"), tokenizer) == [
        tokenizer("Some words.")["input_ids"]
    ]


@pytest.mark.parametrize(
    "column, message",
    [
        ("txt", r"has no column 'txt'; did you mean 'text'\? Its columns are text, number\.$"),
        ("zzz", r"has no column 'zzz'\. Its columns are text, number\.$"),
        (
            "number",
            r"20 of 20 rows cannot be used; row 1: it holds int\. Allowed are texts, and lists of m",
        ),
    ],
)
def test_wrong_column_is_refused_with_what_there_is(
    tokenizer: Any, rows: Rows, tmp_path: Path, column: str, message: str
) -> None:
    path = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match=message):
        load_sequences(data(path, column=column), tokenizer)


def test_rows_without_text_are_left_out(tokenizer: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": t} for t in ("One.", "", "  \n", None, "Two.")])
    assert load_sequences(data(path), tokenizer) == tokenizer(["One.", "Two."])["input_ids"]


def test_table_of_empty_rows_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": ""}, {"text": " "}])
    with pytest.raises(InputError, match="holds no text"):
        load_sequences(data(path), tokenizer)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.txt"])
def test_missing_file_is_named(tokenizer: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"calibration dataset '.*{name}': no such file\."):
        load_sequences(data(tmp_path / name), tokenizer)


def test_hub_dataset_that_is_not_here_is_one_sentence(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"^calibration dataset 'org/none' cannot be read: .+") as error:
        load_sequences(CalibrationData(dataset="org/none"), tokenizer)
    assert "\n" not in str(error.value)


def test_special_tokens_are_those_of_the_tokenizer(with_bos: Any, tokenizer: Any) -> None:
    assert tokenize(["Some words."], with_bos, 256) == [[0, *tokenizer("Some words.")["input_ids"]]]
    assert tokenize(["Some words."], tokenizer, 3) == [tokenizer("Some words.")["input_ids"][:3]]


# chat

SAID = [("system", "Be kind."), ("user", "Hello?"), ("assistant", "Hello.")]
RENDERED = (
    "<|begin|>system: Be kind.<|end|><|begin|>user: Hello?<|end|><|begin|>assistant: Hello.<|end|>"
)
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


def as_messages(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def as_sharegpt(role: str, content: str) -> dict[str, Any]:
    return {"from": SHAREGPT[role], "value": content, "weight": None}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("form", [as_messages, as_sharegpt])
@pytest.mark.parametrize("bos", [False, True])
def test_messages_go_through_the_chat_template(
    tokenizer: Any,
    with_bos: Any,
    tmp_path: Path,
    form: Callable[[str, str], dict[str, Any]],
    suffix: str,
    bos: bool,
) -> None:
    row = {"conversations": [form(*said) for said in SAID]}
    path = write_rows(tmp_path / f"a.{suffix}", [row])
    got = load_sequences(data(path, column="conversations"), with_bos if bos else tokenizer)
    assert got == [tokenizer(RENDERED, add_special_tokens=False)["input_ids"]]


def test_messages_without_a_chat_template_are_refused(tokenizer: Any) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    with pytest.raises(InputError, match="the model's tokenizer has no chat template"):
        tokenize([[as_messages("user", "Hello")]], plain, 64)


def test_messages_of_another_form_are_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="role and content"):
        tokenize([[{"speaker": "user", "words": "Hello"}]], tokenizer, 64)


# settings


def test_built_in_text_is_the_default(tokenizer: Any, prose: str) -> None:
    got = load_sequences(CalibrationData(samples=3, max_length=64), tokenizer)
    assert got == windows(prose, tokenizer, 64, 3)
    assert len(got) == 3


def test_unknown_built_in_names_those_there_are() -> None:
    with pytest.raises(
        InputError, match=r"'builtin:poems' does not exist; built in are builtin:prose\."
    ):
        CalibrationData(dataset="builtin:poems").fingerprint()


@pytest.mark.parametrize("settings", [{"samples": 0}, {"max_length": 1}, {"seed": -1}, {"colum": "x"}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        CalibrationData(**settings)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", ["a.jsonl", "folder", ".hidden/folder"])
def test_fingerprint_follows_the_content(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, relative: bool
) -> None:
    path = tmp_path / name
    file = path if path.suffix else path / "train.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    named = data(Path("..") / name if relative else path)
    prints = []
    for count in (10, 20, 10):
        write_rows(file, rows[:count])
        prints.append(named.fingerprint())
    assert prints[0] == prints[2] != prints[1]


def test_fingerprint_of_a_hub_dataset_needs_no_network() -> None:
    named = {CalibrationData(dataset="org/x", revision=r).fingerprint() for r in (None, "main", "v2")}
    assert named == {"hub:org/x@main", "hub:org/x@v2"}


# batches


@pytest.fixture(scope="module")
def sequences() -> list[list[int]]:
    """37 sequences of distinct tokens, 1 to 12 long."""
    choose = random.Random(0)
    lengths = [choose.randint(1, 12) for _ in range(37)]
    return [[100 * i + j for j in range(length)] for i, length in enumerate(lengths)]


@pytest.mark.parametrize("batch_size", [1, 5, 37, 100])
def test_batches_hold_every_sequence_once_and_pad_on_the_right(
    sequences: list[list[int]], batch_size: int
) -> None:
    batches = Batches(sequences, batch_size)
    seen = []
    for batch in batches:
        assert batch.ids.shape[1] == batch.lengths.max()
        assert torch.equal(batch.mask.sum(1), batch.lengths)
        seen += [row[:size].tolist() for row, size in zip(batch.ids, batch.lengths, strict=True)]
    assert sorted(seen) == sequences
    assert [len(row) for row in seen] == sorted(map(len, sequences), reverse=True)
    assert len(list(batches)) == len(batches) == -(-len(sequences) // batch_size)
    assert batches.tokens == sum(map(len, sequences))


def ranks_by_token(sequences: list[list[int]], batch_size: int, seed: int) -> dict[int, int]:
    return {
        int(token): int(rank)
        for batch in Batches(sequences, batch_size, seed)
        for token, rank in zip(batch.ids[batch.mask], batch.ranks, strict=True)
    }


def test_ranks_are_a_permutation_that_depends_on_the_seed_alone(sequences: list[list[int]]) -> None:
    ranks = ranks_by_token(sequences, 4, seed=1)
    assert sorted(ranks.values()) == list(range(sum(map(len, sequences))))
    assert ranks == ranks_by_token(sequences, 9, seed=1)
    assert ranks != ranks_by_token(sequences, 4, seed=2)


def test_every_token_is_equally_likely_to_be_sampled() -> None:
    sequences = [[1, 2, 3, 4, 5, 6], [7, 8, 9], [10]]
    draws = 3000
    counts = dict.fromkeys(range(1, 11), 0)
    for seed in range(draws):
        for token, rank in ranks_by_token(sequences, 2, seed).items():
            counts[token] += rank < 3
    expected = 0.3 * draws
    spread = (0.3 * 0.7 * draws) ** 0.5
    assert max(abs(count - expected) for count in counts.values()) < 4 * spread
