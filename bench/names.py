"""What cells, tasks and files are called, and which names are those of secrets."""

from __future__ import annotations

import re

DEMO = "demo_"  # how the tasks of the demo begin, which tables leave out
SECRETS = ("TOKEN", "KEY", "SECRET", "PASSW", "PASSPHRASE", "CREDENTIAL", "AUTH")


def cell_name(model: str, layers: int, label: str) -> str:
    """``MODEL/baseline`` or ``MODEL/N/SOLVER``."""
    return f"{model}/{layers}/{label}" if layers else f"{model}/{label}"


def file_name(text: str) -> str:
    """What a text is called as part of a file's name: at most 150 bytes, and no separators."""
    readable = re.sub(r"[^\w.]+", "-", text).strip("-").lower()
    return readable.encode()[:150].decode(errors="ignore")


def short_task_name(name: str) -> str:
    """A task as tables call it."""
    return name.removeprefix(DEMO) or name


def make_distinct(name: str, taken: set[str]) -> str:
    """A name that is not taken yet, whatever its case, with a number where necessary; takes it."""
    found, number = name, 1
    while found.lower() in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found.lower())
    return found


def is_secret(variable: str) -> bool:
    """Whether an environment variable is named like a secret."""
    name = variable.upper().replace("AUTHOR", "")
    return any(word in name for word in SECRETS)
