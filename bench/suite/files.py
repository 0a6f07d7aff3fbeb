"""Which file a suite's name means, and that file with the suites it extends as one."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import reduce
from pathlib import Path

from bench.shipped import shipped_folder
from bench.suite.variables import replace_variables
from replaceme.errors import InputError, nearest
from replaceme.io import yaml_file
from replaceme.io.yaml_file import Entry, shown

SUFFIXES = (".yaml", ".yml")


def shipped() -> dict[str, Path]:
    """Name → file of the suites that come with this package."""
    folder = shipped_folder("suites", "suites")
    return dict(sorted((path.stem, path) for path in folder.glob("*.yaml")))


def find(name: str, folder: Path) -> Path:
    """The file that a name means: a path relative to ``folder``, or a suite that is shipped.

    Raises:
        InputError: neither.
    """
    if "\0" in name:
        raise InputError(f"{shown(repr(name))} names no file: it holds a null byte.")
    try:
        path = folder / Path(name).expanduser()
        if path.is_file() or "/" in name or path.suffix in SUFFIXES:
            return path
    except (OSError, ValueError, RuntimeError) as error:  # too long, or an unknown user's home
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{shown(repr(name))} names no file: {reason}.") from None
    known = shipped()
    if name not in known:
        raise InputError(
            f"there is no file {shown(repr(name))}, and no shipped suite of that name"
            f"{nearest(name, list(known))} Shipped are {', '.join(known)}."
        )
    return known[name]


def read(path: Path) -> Entry:
    """A suite file over those it extends, variables replaced; keys that are null are left out.

    Raises:
        InputError: a file cannot be read, a variable is missing, or the files extend each other.
    """
    chain = [path]
    entries = [replace_variables(yaml_file.read(path))]
    while (base := entries[-1].value.get("extends")) is not None and base.value is not None:
        chain.append(_base(base, chain))
        try:
            entries.append(replace_variables(yaml_file.read(chain[-1])))
        except InputError as error:
            if str(error).startswith(f"{chain[-1]} cannot be read"):
                raise InputError(f"{base.where}: extends: {error}") from None
            raise
    return _without_nulls(reduce(_merge, reversed(entries)))


def _base(base: Entry, chain: list[Path]) -> Path:
    if not isinstance(base.value, str):
        raise InputError(
            f"{base.where}: extends: name a file or a shipped suite; got {shown(repr(base.plain()))}."
        )
    try:
        path = find(base.value, base.path.parent)
    except InputError as error:
        raise InputError(f"{base.where}: extends: {error}") from None
    if os.path.realpath(path) in map(os.path.realpath, chain):
        circle = " → ".join(map(str, [*chain, path]))
        raise InputError(f"{base.where}: extends: the files extend each other: {circle}.")
    return path


def _merge(base: Entry, over: Entry) -> Entry:
    """Mappings key by key; anything else is replaced."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    both = dict(base.value)
    for key, entry in over.value.items():
        both[key] = _merge(both[key], entry) if key in both else entry
    return replace(over, value=both)


def _without_nulls(entry: Entry) -> Entry:
    if isinstance(entry.value, dict):
        kept = {k: _without_nulls(e) for k, e in entry.value.items() if e.value is not None}
        return replace(entry, value=kept)
    if isinstance(entry.value, list):
        return replace(entry, value=[_without_nulls(item) for item in entry.value])
    return entry
