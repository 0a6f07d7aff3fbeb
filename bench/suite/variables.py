"""``${NAME}`` and ``${NAME:-default}`` in the values of a suite file → what the environment says."""

from __future__ import annotations

import os
import re
from dataclasses import replace

from bench.names import SECRETS, is_secret
from replaceme.errors import InputError
from replaceme.io.yaml_file import Entry, shown

# ``$${`` stands for a plain ``${``.
REFERENCE = re.compile(r"\$\$(?=\{)|\$\{(?P<inside>[^{}]*)(?P<end>\}?)")
INSIDE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-.*)?", re.DOTALL)


def replace_variables(entry: Entry, location: str = "") -> Entry:
    """The same with the variables in its texts replaced; keys stay as they are.

    Raises:
        InputError: a variable that is not set and has no default, or looks like a secret, or ``${``
            that is no reference.
    """
    if isinstance(entry.value, dict):
        parts = {k: replace_variables(e, f"{location}.{k}") for k, e in entry.value.items()}
        return replace(entry, value=parts)
    if isinstance(entry.value, list):
        items = [replace_variables(e, f"{location}.{i}") for i, e in enumerate(entry.value)]
        return replace(entry, value=items)
    if not isinstance(entry.value, str) or "${" not in entry.value:
        return entry
    where = f"{entry.where}: {shown(location.removeprefix('.'))}"
    return replace(entry, value=REFERENCE.sub(lambda match: _value(match, where), entry.value))


def _value(match: re.Match[str], where: str) -> str:
    if match["inside"] is None:
        return "$"
    parts = INSIDE.fullmatch(match["inside"])
    if parts is None or not match["end"]:
        raise InputError(
            f"{where}: {shown(repr(match[0]))} is no variable; write ${{NAME}} or ${{NAME:-default}}, "
            f"and $${{ for a plain ${{."
        )
    name, default = parts["name"], parts["default"]
    if is_secret(name):
        raise InputError(
            f"{where}: the variable {name!r} is named like a secret, and what a suite says is stored in "
            f"records; names with {', '.join(SECRETS)} are never read."
        )
    value = os.environ.get(name)
    if default is not None:
        return value or default.removeprefix(":-")
    if value is None:
        raise InputError(
            f"{where}: the environment variable {name!r} is not set; set it, or write a default: "
            f"${{{name}:-…}}."
        )
    if not value.isprintable():
        raise InputError(f"{where}: the environment variable {name!r} holds no plain line of text.")
    return value
