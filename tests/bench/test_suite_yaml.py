"""Files that are not what a suite should be: one clear sentence each, and nothing hangs or explodes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.suite import suite
from replaceme.errors import InputError
from replaceme.io import yaml_file

Call = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[..., None]

LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {k0: x}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: x}}\n" for i in range(1, 12)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3000))

BROKEN: dict[str, tuple[bytes, str]] = {
    "object": (
        b"name: !!python/object/apply:os.system ['true']\n",
        ":1: not valid YAML (the tag '!!python/",
    ),
    "name tag": (
        b"name: x\nmodels: !!python/name:os.system\n",
        ":2: not valid YAML (the tag '!!python/name",
    ),
    "own tag": (b"name: !mine x\n", ":1: not valid YAML (the tag '!mine' is not allowed)"),
    "env tag": (b"name: !env HOME\n", "the tag '!env' is not allowed"),
    "set": (b"name: !!set {a, b}\n", "the tag '!!set' is not allowed"),
    "binary": (b"name: !!binary aGk=\n", "the tag '!!binary' is not allowed"),
    "laughs": (LAUGHS.encode(), "aliases make more than 10,000 values of it"),
    "merges": (MERGES.encode(), "aliases make more than 10,000 values of it"),
    "long chain of aliases": (CHAIN.encode(), "more than 40 deep"),
    "large alias": (
        b"a: &a " + b"x" * 200_000 + b"\nb: [" + b"*a, " * 5000 + b"]\n",
        "aliases make more than 10,000 values of it",
    ),
    "alias of itself": (b"a: &a [1, *a]\n", ":1: an alias means the value that it stands in"),
    "mapping of itself": (b"a: &a\n  b: *a\n", ":2: an alias means the value that it stands in"),
    "merge of itself": (b"a: &a {<<: *a}\n", ":1: an alias means the value that it stands in"),
    "merge of a text": (b"a: {<<: x}\n", ":1: '<<' takes a mapping, or a list of mappings"),
    "unknown alias": (b"a: *b\n", ":1: not valid YAML (found undefined alias 'b')"),
    "deep list": (b"a: " + b"[" * 50_000, ":1: values nested more than 40 deep"),
    "deep mapping": (b"{a: " * 50_000, ":1: values nested more than 40 deep"),
    "deep block": (
        b"".join(b" " * i + b"a:\n" for i in range(600)),
        ":40: values nested more than 40 deep",
    ),
    "many values": (b"a: [" + b"1," * 60_000 + b"]", ":1: more than 10,000 values"),
    "large": (b"#" * 300_000, "cannot be read: it is larger than 256 KiB"),
    "huge integer": (b"name: x\nseed: " + b"9" * 5000 + b"\n", ":2: 9999"),
    "huge hexadecimal": (b"seed: 0x" + b"f" * 30 + b"\n", ":1: 0xffff"),
    "long sexagesimal": (b"seed: " + b"1:" * 20_000 + b"1\n", ":1: 1:1:1:"),
    "not a number": (b"seed: .nan\n", ":1: .nan is not a number of reasonable size"),
    "infinity": (b"serve: {timeout: .inf}\n", ":1: .inf is not a number of reasonable size"),
    "minus infinity": (b"seed: -.inf\n", ":1: -.inf is not a number"),
    "octal that is none": (b"seed: !!int 0b2\n", ":1: 0b2 is not a number"),
    "integer that is none": (b"seed: !!int many\n", ":1: many is not a number"),
    "truth that is none": (b"a: !!bool many\n", "the tag '!!bool' is not allowed"),
    "time": (b"name: 2024-01-31 10:00:00\n", ":1: YAML reads 2024-01-31 10:00:00 as a date"),
    "repeated key": (b"name: x\nprune: {a: 1, a: 2}\n", ":2: the key 'a' stands twice"),
    "number as key": (b"1: x\n", ":1: the key 1 is no text; write it in quotes"),
    "truth as key": (b"on: x\n", ":1: the key on is no text"),
    "null as key": (b"~: x\n", ":1: the key ~ is no text"),
    "empty key": (b"? \n: x\n", ":1: the key  is no text"),
    "list as key": (b"[a]: x\n", ":1: a key must be a text"),
    "mapping as key": (b"{a: b}: x\n", ":1: a key must be a text"),
    "null byte": (b"name: x\nb: a\0b\n", ":2: not valid YAML (the character U+0000 is not allowed)"),
    "escape character": (
        b"name: \x1b[31m\n",
        ":1: not valid YAML (the character U+001B is not allowed)",
    ),
    "latin 1": ("name: é\n".encode("latin-1"), "cannot be read: it is not UTF-8 text"),
    "utf-16": ("name: x\n".encode("utf-16"), "cannot be read: it is not UTF-8 text"),
    "elf": (b"\x7fELF\x02\x01\x01\0\xff\xfe", "cannot be read: it is not UTF-8 text"),
    "two documents": (b"name: x\n---\nname: y\n", ":2: not valid YAML"),
    "tab": (b"name:\n\t- x\n", ":2: not valid YAML (found character '\\t'"),
    "text": (b"just a text\n", ":1: the file must be a mapping"),
    "null": (b"~\n", ":1: the file must be a mapping"),
    "only comments": (b"# nothing\n", ":1: the file must be a mapping"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_refused_with_its_line(
    refused: Refused, call_here: Call, tmp_path: Path, name: str
) -> None:
    content, part = BROKEN[name]
    path = tmp_path / "suite.yaml"
    path.write_bytes(content)
    result = call_here("plan", path)
    refused(result, part)
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"Error: {path}")
    assert len(result.stderr) < 500


def pipe(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


def loop_of_two(path: Path) -> None:
    path.symlink_to(path.with_name("other.yaml"))
    path.with_name("other.yaml").symlink_to(path)


def unreadable(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (Path.mkdir, "cannot be read: Is a directory"),
        (pipe, "cannot be read: it is no regular file"),
        (loop, "cannot be read: Too many levels of symbolic links"),
        (loop_of_two, "cannot be read: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "cannot be read: it is no regular file"),
        (lambda path: path.symlink_to("/dev/null"), "cannot be read: it is no regular file"),
        (unreadable, "cannot be read: "),
        (lambda path: path.symlink_to("nothing"), "cannot be read: No such file or directory"),
    ],
    ids=["folder", "pipe", "loop", "loop of two", "zero", "null", "memory", "dangling"],
)
def test_what_is_no_file_is_refused_at_once(
    refused: Refused, call: Call, tmp_path: Path, make: Callable[[Path], Any], part: str
) -> None:
    path = tmp_path / "suite.yaml"
    make(path)
    refused(call("plan", path), f"{path} {part}")
    extending = tmp_path / "extending.yaml"
    extending.write_text("name: x\nextends: suite.yaml\n")
    refused(call("plan", extending), f"{extending}:2: extends: {path} {part}")


def test_byte_order_mark_and_line_ends_of_other_systems_are_read(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    path = tmp_path / "suite.yaml"
    text = yaml.safe_dump(content, sort_keys=False)
    wanted = suite.Suite.model_validate(content)
    for raw in (b"\xef\xbb\xbf" + text.encode(), text.replace("\n", "\r\n").encode()):
        path.write_bytes(raw)
        assert suite.load(path) == wanted
    path.write_bytes(text.replace("\n", "\r\n").encode() + b"wrong: 1\r\n")
    with pytest.raises(
        InputError, match=rf"suite.yaml:{len(text.splitlines()) + 1}: wrong: unknown key"
    ):
        suite.load(path)


def test_aliases_and_merge_keys_are_read_as_yaml_says(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    text = "a: &a {x: 1, y: 2}\nb: &b {x: 3, z: 4}\nc: {<<: [*a, *b], y: 5}\nd: *a\ne: {<<: *b}\n"
    path.write_text(text)
    found = yaml_file.read(path)
    assert found.plain() == yaml.safe_load(text)
    assert found.at(("c", "z")).line == 2
    assert found.at(("c", "y")).line == 3


def test_a_day_is_a_text_with_and_without_quotes(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "suite.yaml"
    for day in ("2031-02-03", "'2031-02-03'"):
        path.write_text(yaml.safe_dump(content) + f"date: {day}\n")
        assert suite.load(path).date == date(2031, 2, 3)
    path.write_text(yaml.safe_dump(content) + "date: 2031-02-31\n")
    with pytest.raises(InputError, match=r"date: give a day as year-month-day, such as 2024-07-26; got"):
        suite.load(path)


def test_control_characters_of_a_file_do_not_reach_the_terminal(
    refused: Refused, call_here: Call, tmp_path: Path
) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text('name: "a\\e[31m"\n"\\e]0;x\\a\\u202e": 1\nmodels: "\\e[2J"\n')
    result = call_here("plan", path)
    refused(result, "\\x1b]0;x\\x07\\u202e: unknown key", "'\\x1b[2J'")
    assert "\x1b" not in result.stderr
    assert "\u202e" not in result.stderr


def test_many_wrong_values_are_told_in_a_few_lines(
    refused: Refused, call_here: Call, tmp_path: Path
) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        "name: x\nmodels: [" + "{a: 1}, " * 500 + "]\nprune: {layers: [2], solvers: [uidl]}\n"
    )
    result = call_here("plan", path)
    refused(result, f"{path}: 990 more like these.")
    assert len(result.stderr.splitlines()) == 11


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("models", ["~nobody-of-that-name/model"]),
        ("models", ["x" * 5000]),
        ("models", ["/" + "x" * 300]),
        ("models", ["a\0b"]),
        ("calibration", {"dataset": "~nobody-of-that-name/text.txt"}),
        ("calibration", {"dataset": "x" * 300 + ".txt"}),
        ("calibration", {"dataset": "a\0b.txt"}),
        ("score", {"tasks": ["colours"], "include_path": "~nobody-of-that-name"}),
        ("score", {"tasks": ["colours"], "include_path": "x" * 300}),
        ("score", {"tasks": ["colours"], "include_path": "a\0b"}),
        ("name", "x" * 5000),
        ("serve", {"workloads": [{"input_len": 8, "output_len": 4, "batch_size": 1}], "timeout": "inf"}),
        ("prune", {"layers": [2], "solvers": [{"name": "lstsq", "ridge": "inf"}]}),
        ("prune", {"layers": [2], "solvers": [{"name": "cosine", "tolerance": "nan"}]}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_value_that_no_system_takes_is_refused(
    refused: Refused, call_here: Call, write_suite: Callable[..., Path], key: str, value: Any
) -> None:
    path = write_suite(**{key: value})
    result = call_here("plan", path)
    refused(result, f"{path}:", f": {key}")
    assert len(result.stderr) < 1000


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(), st.binary()
)
KEYS = st.sampled_from(
    ["name", "models", "prune", "score", "extends", "layers", "solvers", "tasks", "id", "matrix", "x"]
)
TREES = st.recursive(
    SCALARS,
    lambda children: st.one_of(
        st.lists(children, max_size=4), st.dictionaries(st.one_of(KEYS, SCALARS), children, max_size=5)
    ),
    max_leaves=20,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        TREES.map(lambda tree: yaml.dump(tree).encode()),
        st.dictionaries(KEYS, TREES).map(lambda tree: yaml.dump(tree).encode()),
        st.binary(max_size=200),
        st.text(alphabet="ab:-[]{}&*!|>'\"#%@`,? \n\t<\\0", max_size=80).map(str.encode),
    )
)
def test_any_file_is_a_suite_or_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "suite.yaml"
    path.write_bytes(raw)
    try:
        found = suite.load(path)
    except InputError as error:
        assert str(error).startswith(str(path))
    else:
        assert isinstance(found, suite.Suite)
