"""Rows as they come: chats of every kind, files of every form, parts of sets, streams."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replaceme.calibration import CalibrationData, check_data, read_text, tokenize
from replaceme.calibration.chats import UnusableError, said_in
from replaceme.errors import InputError

# As those of Gemma and Mistral: no system turn, and user and assistant in turn.
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<|begin|>{{ m['role'] + ': ' + m['content'] }}<|end|>{% endfor %}"
)
CALL = {"type": "function", "function": {"name": "f", "arguments": {"city": "Oslo"}}}


@pytest.fixture
def strict(tokenizer: Any) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = STRICT
    return changed


def chat(*said: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in said]


def text(tokenizer: Any, row: Any) -> str:
    (ids,) = tokenize([row], tokenizer, 256)
    return tokenizer.decode(ids)


USER, BOTH = "<|begin|>user: Hello?<|end|>", "<|begin|>user: Hello?<|end|><|begin|>assistant: Hi.<|end|>"
HELLO = chat(("user", "Hello?"), ("assistant", "Hi."))
CHATS: dict[str, tuple[Any, str]] = {
    "parts": (chat(("user", [{"type": "text", "text": "Hello?"}])), USER),
    "several parts": (
        chat(("user", [{"type": "text", "text": "Hello?"}, "You?"])),
        "<|begin|>user: Hello?\nYou?<|end|>",
    ),
    "null content": (
        [*chat(("user", "Hello?")), {"role": "assistant", "content": None, "tool_calls": [CALL]}],
        USER + "<|begin|>assistant: <|end|>",
    ),
    "no content": (
        [*chat(("user", "Hello?")), {"role": "assistant", "tool_calls": [CALL]}],
        USER + "<|begin|>assistant: <|end|>",
    ),
    "sharegpt": ([{"from": "human", "value": "Hello?"}, {"from": "chatgpt", "value": "Hi."}], BOTH),
    "bard": ([{"from": "Human ", "value": "Hello?"}, {"from": "BARD", "value": "Hi."}], BOTH),
    "model": (chat(("user", "Hello?"), ("model", "Hi.")), BOTH),
    "function": (chat(("function", "1")), "<|begin|>tool: 1<|end|>"),
    "developer": (chat(("developer", "Be kind.")), "<|begin|>system: Be kind.<|end|>"),
    "nested": ({"conversations": [{"from": "human", "value": "Hello?"}]}, USER),
    "columns": ({"from": ["human", "gpt"], "value": ["Hello?", "Hi."]}, BOTH),
    "json": (json.dumps(HELLO), BOTH),
    "one message": ({"role": "user", "content": "Hello?"}, USER),
}


@pytest.mark.parametrize("name", CHATS)
def test_chat_of_the_wild_is_rendered(tokenizer: Any, name: str) -> None:
    row, wanted = CHATS[name]
    assert text(tokenizer, row) == wanted


def test_a_text_that_looks_like_json_stays_a_text(tokenizer: Any) -> None:
    for said in ('[{"a": 1}]', "[{ not json", '{"role": "user"}'):
        assert text(tokenizer, said) == said


def test_nulls_of_a_typed_table_do_not_reach_the_template() -> None:
    call = {"function": {"name": "f", "arguments": {"city": None, "year": 1900}}}
    row = [{"role": "user", "content": "a", "name": None, "tool_calls": [call]}]
    calls = [{"function": {"name": "f", "arguments": {"year": 1900}}}]
    assert said_in(row) == [{"role": "user", "content": "a", "tool_calls": calls}]


@pytest.mark.parametrize(
    "row, reason",
    [
        (3, "it holds int"),
        (b"a", "it holds bytes"),
        (["a", "b"], "it holds a list with str"),
        ({"a": 1}, "it holds an object with a"),
        ([{"speaker": "user"}], "it holds messages with speaker; needed are role and content"),
        (chat(("user", 3)), "it holds a message whose content is int"),
        (chat(("user", [{"type": "image_url"}])), r"a part that is no text \(image_url\)"),
        ("half \ud83d", "it holds half of a character"),
        ({"from": ["human"], "value": []}, "it holds lists of different lengths"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(tokenizer: Any, row: Any, reason: str) -> None:
    with pytest.raises(UnusableError, match=reason):
        said_in(row)
    with pytest.raises(InputError, match=rf"1 of 1 rows cannot be used; row 1: .*{reason}"):
        tokenize([row], tokenizer, 64)


def test_system_turn_that_a_template_refuses_goes_into_the_users(strict: Any, tmp_path: Path) -> None:
    row = chat(("system", "Be kind."), ("user", "Hello?"), ("assistant", "Hi."))
    wanted = "<|begin|>user: Be kind.\n\nHello?<|end|><|begin|>assistant: Hi.<|end|>"
    assert text(strict, row) == wanted
    found = read_text(data(lines(tmp_path, [row, HELLO]), column="c"), strict)
    assert found.rows and found.rows.folded == 1
    assert "went to the head of the user's in 1 rows" in str(found.rows.notice())


def data(path: Path, **settings: Any) -> CalibrationData:
    return CalibrationData(dataset=str(path), **settings)


def lines(folder: Path, values: list[Any], name: str = "a.jsonl", column: str = "c") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps({column: value}) + "\n" for value in values))
    return path


def test_rows_that_cannot_be_used_are_counted_and_the_first_is_named(
    strict: Any, tmp_path: Path
) -> None:
    odd = chat(("assistant", "Hi."), ("user", "Hello?"))
    rows = [HELLO, None, odd, HELLO, [], 5, HELLO, chat(("narrator", "So."))]
    found = read_text(data(lines(tmp_path, rows), column="c"), strict)
    assert found.rows is not None
    assert (found.rows.used, found.rows.empty, found.rows.skipped) == (3, 2, 3)
    assert found.rows.first == "row 3: the chat template refuses it (Roles must alternate)"
    assert len(found.sequences) == 3
    path = lines(tmp_path, [*rows, 6], "b.jsonl")
    with pytest.raises(InputError, match=r"column 'c': 4 of 9 rows cannot be used; row 3: the chat tem"):
        read_text(data(path, column="c"), strict)


def test_rows_behind_those_that_cannot_be_used_take_their_place(tokenizer: Any, tmp_path: Path) -> None:
    path = lines(tmp_path, [1 if i % 3 == 0 else f"Words {i}." for i in range(60)])
    found = read_text(data(path, column="c", samples=20), tokenizer)
    assert len(found.sequences) == 20
    order = np.random.default_rng(42).permutation(60)
    wanted = [f"Words {i}." for i in order if i % 3][:20]
    assert [tokenizer.decode(ids) for ids in found.sequences] == wanted


# files

TEXTS = [f"Text {i}, “quoted”, and é." for i in range(30)]


def write(folder: Path, name: str) -> Path:
    import csv
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / name
    kind = name.lower().removesuffix(".gz")
    rows = [{"text": said, "n": i} for i, said in enumerate(TEXTS)]
    if kind.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
        return path
    if "arrow" in kind:
        table = pa.Table.from_pylist(rows)
        make = pa.ipc.new_file if "file" in kind else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
        return path
    if kind.endswith((".csv", ".tsv")):
        out = io.StringIO()
        writer = csv.DictWriter(out, ["n", "text"], delimiter="\t" if "tsv" in kind else ",")
        writer.writeheader()
        writer.writerows(rows)
        content = out.getvalue().encode()
    elif "wrapped" in kind:
        content = json.dumps({"version": 1, "data": rows}).encode()
    elif "list" in kind:
        content = json.dumps(rows, indent=1).encode()
    elif "bare" in kind:
        content = "\n".join(map(json.dumps, TEXTS)).encode()
    else:
        content = "\r\n".join(map(json.dumps, rows)).encode() + b"\r\n\r\n"
        content = b"\xef\xbb\xbf" + content if "bom" in kind else content
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a.csv",
            "a.TSV",
            "a.csv.gz",
            "a.jsonl",
            "a.jsonl.gz",
            "bom.jsonl",
            "list.json",
            "wrapped.json",
        ),
        *("bare.jsonl", "a.parquet", "a.PARQUET", "a.arrow", "file.arrow", "list.JSON.gz"),
    ],
)
def test_every_form_of_file_gives_the_same_rows(tokenizer: Any, tmp_path: Path, name: str) -> None:
    found = data(write(tmp_path, name))
    check_data(found)
    assert read_text(found, tokenizer).sequences == tokenizer(TEXTS)["input_ids"]


def test_byte_order_mark_and_line_ends_of_a_text_do_not_count(tokenizer: Any, tmp_path: Path) -> None:
    plain = "One line.\nAnother line.\n" * 40
    (tmp_path / "a.txt").write_bytes(plain.encode())
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode())
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(plain.encode()))
    first, *others = (read_text(data(tmp_path / n), tokenizer) for n in ("a.txt", "b.txt", "c.txt.gz"))
    assert all(other.sequences == first.sequences for other in others)


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "utf-16": ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    "not gzip": ("a.jsonl.gz", b'{"text": "a"}', "it is not packed with gzip, as its name says"),
    "cut gzip": (
        "a.txt.gz",
        gzip.compress(os.urandom(999))[:-40],
        "cut off, or damaged, inside its gzip",
    ),
    "list": ("a.json", b'[{"text": "a"},\n{"text": "b"', "line 2 is not valid JSON .*cut off"),
    "fields": ("a.csv", b"n,text\n1,a\n2,b,c\n", "line 3 has 3 fields, the header 2"),
    "header alone": ("a.csv", b"n,text\n", "holds no text: it has no rows"),
    "column": ("a.csv", b"n,texts\n1,a\n", "has no column 'text'; did you mean 'texts'"),
    "parquet": ("a.parquet", b"PAR1" + bytes(90), "cannot be read: "),
    "latin 1 text": ("a.txt", b"One.\ncaf\xe9.\n", "line 2 is not UTF-8 text .byte 0xE9 at column 4"),
    "empty text": ("a.txt", b" \n", "holds no text"),
    "kind": ("a.xml", b"<a/>", "a file of another kind; give a .jsonl"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_found_by_the_quick_check(tmp_path: Path, name: str) -> None:
    file, content, message = BROKEN[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=rf"calibration dataset '.*{file}'.*{message}") as error:
        check_data(data(tmp_path / file))
    assert "\n" not in str(error.value)


def test_pipe_is_no_data(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="it is no regular file"):
        check_data(data(tmp_path / "a.jsonl"))


def test_large_file_that_is_cut_off_is_found_by_its_last_line(tmp_path: Path) -> None:
    row = json.dumps({"text": "word " * 200}) + "\n"
    (tmp_path / "a.jsonl").write_text(row * 3000 + row[:80])
    with pytest.raises(
        InputError, match=r"its last line is not valid JSON .*; the file seems to be cut"
    ):
        check_data(data(tmp_path / "a.jsonl"))


def test_values_of_different_kind_in_a_folder_stay_as_they_are(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lines(tmp_path / "set", [HELLO], "train-1.jsonl")
    lines(tmp_path / "set", ["A text."], "train-2.jsonl")
    chosen = data(tmp_path / "set", column="c")
    check_data(chosen)
    said = [tokenizer.decode(ids) for ids in read_text(chosen, tokenizer).sequences]
    assert said == [BOTH, "A text."]
    with pytest.raises(InputError, match="has no column 'd'"):
        check_data(data(tmp_path / "set", column="d"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["json", "csv", "saved"])
def test_part_of_a_split_is_read(tokenizer: Any, tmp_path: Path, form: str, streaming: bool) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    if form == "saved":
        if streaming:  # datasets streams what lies in files of data alone
            form = "json"
        else:
            import datasets

            datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(folder))
    if form != "saved":
        write(folder, f"train.{'jsonl' if form == 'json' else form}")
    chosen = data(folder, split="train[5:9]", streaming=streaming, samples=100)
    check_data(chosen)
    got = read_text(chosen, tokenizer).sequences
    assert sorted(got) == sorted(tokenizer(TEXTS[5:9])["input_ids"])


def test_stream_is_a_seeded_choice(tokenizer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder, "train.jsonl")
    first, again, other = (
        read_text(data(folder, streaming=True, samples=6, seed=seed), tokenizer) for seed in (1, 1, 2)
    )
    assert first.sequences == again.sequences != other.sequences
    assert first.hash == again.hash != other.hash
    streamed = data(folder, streaming=True).identity()
    assert streamed["streaming"] == 10_000
    assert "streaming" not in data(folder).identity()


@pytest.mark.parametrize("split", ["train[:", "train[:x]", "a b", ""])
def test_what_is_no_split_is_refused(tmp_path: Path, split: str) -> None:
    with pytest.raises(InputError, match="is no split; allowed are a name, a part of it"):
        check_data(data(tmp_path, split=split))


def test_hash_is_that_of_lengths_and_ids(tokenizer: Any, tmp_path: Path) -> None:
    found = read_text(data(lines(tmp_path, ["One.", "Two words."]), column="c"), tokenizer)
    ids = [n for sequence in found.sequences for n in (len(sequence), *sequence)]
    assert found.hash == "sha256:" + hashlib.sha256(struct.pack(f"<{len(ids)}q", *ids)).hexdigest()
