"""What the fuzz tests share: mutations of JSON values, and commands that have to end well in time."""

from __future__ import annotations

import copy
import json
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replaceme.errors import InputError

SECONDS = 20  # a case may take; what hangs takes more
ENDS = {0, 1, 2, 3}


def fuzz(examples: int, **strategies: Any) -> Callable[[Any], Any]:
    """As ``given``, the same cases in every run; ``--fuzz-examples`` gives other, and more, cases."""

    campaign = settings.get_current_profile_name() == "fuzz"
    setting = settings(
        derandomize=not campaign,
        max_examples=settings().max_examples if campaign else examples,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: setting(given(**strategies)(test))


class HangError(Exception):
    """A case took too long."""


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Interrupt what runs longer."""

    def stop(*_: Any) -> None:
        raise HangError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read_or_refused(path: Path, read: Callable[[Path], Any]) -> Any:
    """What is read from a file, in time; ``None`` where it is refused by its name."""
    with in_time():
        try:
            return read(path)
        except InputError as error:
            assert str(path) in str(error)
            return None


def ends_well(*arguments: Any, codes: set[int] = ENDS) -> Any:
    """Run a command here; it has to end in time, with one of ``codes`` and no traceback.

    Returns:
        click's result.
    """
    from click.testing import CliRunner

    from bench.cli import main

    with in_time():
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in codes, (result.exit_code, result.output)
    assert "Traceback" not in result.output
    if result.exit_code == 2:
        assert result.stderr.startswith(("Error: ", "Usage: ")), result.stderr
    assert not control_characters(result.output), repr(result.output)
    return result


def control_characters(text: str) -> set[str]:
    """Those that a terminal acts on, but for line feeds and tabs."""
    return {c for c in text if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0}


DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP]
NASTY = [
    *(None, True, False, 0, 1, -1, 5, 2**31, 2**63, -(2**63), 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1.5, -3.7, 1e-320, 1e300, -1e300, math.nan, math.inf, -math.inf),
    *("", " ", "x", "baseline", "acc", "../../x", "/etc/passwd", "a\0b", "\x1b[31m\x1b]0;t\x07", "\n\r"),
    *("<script>alert(1)</script>", "[x](javascript:y)", "=cmd|' /C calc'!A0", "\\input{/etc/passwd}"),
    *("\u202e\u2066", "\ud800", "𝕏\U0010ffff", "x" * 5000, "{{7*7}}", "%s%n", "1e999", "nan", "-1"),
    *([], {}, [[]], [None], [1, 2], [1, 2, 3], {"a": None}, {"": ""}, [[3, 1]], [[0, 0]], DEEP),
    *([[1, 2]] * 2, ["x"], {"name": 3}, {"value": None}),
]
KEYS = ["", "x", "__class__", "constructor", "a.b", "a\nb", "acc", "perplexity", "\x1b[2J", "serve"]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything inside a value; of long lists, the first and last entries."""
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        found = list(enumerate(value))
        children = found if len(found) < 6 else found[:2] + found[-2:]
    else:
        return
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


@st.composite
def mutated(draw: Any, value: Any, most: int = 4) -> Any:
    """A value with some of what is inside it removed, replaced, renamed, wrapped or swapped."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        paths = list(places(value))
        if not paths:
            return value
        path = draw(st.sampled_from(paths))
        parent, key = at(value, path[:-1]), path[-1]
        what = draw(st.sampled_from(["replace", "replace", "replace", "delete", "swap", "wrap", "add"]))
        if what == "delete":
            del parent[key]
        elif what == "swap":
            parent[key] = copy.deepcopy(at(value, draw(st.sampled_from(paths))))
        elif what == "wrap":
            parent[key] = draw(st.sampled_from([[parent[key]], {"x": parent[key]}]))
        elif what == "add" and isinstance(parent, dict):
            added = draw(st.sampled_from([parent[key], *NASTY]))
            parent[draw(st.sampled_from(KEYS))] = copy.deepcopy(added)
        elif what == "add":
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[key] = copy.deepcopy(draw(st.sampled_from(NASTY)))
    return value


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Bytes that were cut, overwritten or inserted into."""
    for _ in range(draw(st.integers(1, 3))):
        at_byte = draw(st.integers(0, len(content)))
        what = draw(st.sampled_from(["cut", "overwrite", "insert", "remove"]))
        some = draw(st.binary(min_size=1, max_size=8))
        if what == "cut":
            content = content[:at_byte]
        elif what == "overwrite":
            content = content[:at_byte] + some + content[at_byte + len(some) :]
        elif what == "insert":
            content = content[:at_byte] + some + content[at_byte:]
        else:
            content = content[:at_byte] + content[at_byte + len(some) :]
    return content


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
