"""Every name that lm-eval knows: its tasks, groups and tags, and those in folders of a suite.

lm-eval reads more than ten thousand YAML files to know its own names, so what it says is kept in the
user's cache; does not import lm-eval.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from bench.tasks import task_yaml
from replaceme.errors import InputError, OutputError
from replaceme.io.files import write_atomically
from replaceme.io.models import cache_folder

Kind = Literal["task", "python", "group", "tag"]
SKIPPED = {"__pycache__", ".ipynb_checkpoints"}


@dataclass(frozen=True)
class Definition:
    """What a name stands for.

    Attributes:
        kind: ``python``: a task that is a class in Python.
        yaml: the file that defines it; ``None`` for a tag, which is what tasks say of themselves.
        members: names in a tag; what ``task`` lists in a group, names and mappings.
        others: more files of the same folders that define the name.
    """

    kind: Kind
    yaml: Path | None = None
    members: tuple[Any, ...] = ()
    others: tuple[Path, ...] = ()


Index = dict[str, Definition]


def lm_eval_folder() -> Path | None:
    """Where lm-eval is installed; looked up, not imported."""
    spec = importlib.util.find_spec("lm_eval")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]).resolve() if places else None


@cache
def read_builtin() -> Index:
    """lm-eval's own names, as its ``TaskManager`` tells them.

    Raises:
        InputError: lm-eval cannot tell them.
    """
    if (package := lm_eval_folder()) is None:
        return {}
    root = package / "tasks"
    version = metadata.version("lm_eval")
    place = sha256(str(root).encode()).hexdigest()[:12]
    kept = cache_folder() / "tasks" / f"lm_eval-{version}-{place}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(kept.read_text("utf-8"))
        if found["folders"] == _list_changes(root, found["folders"]):
            return _make_definitions(found["names"], root)
    print(f"Asking lm-eval {version} for its tasks, once.", file=sys.stderr)
    names = _ask_lm_eval()
    folders = {"", *(str(parent) for name in names.values() for parent in Path(name["yaml"]).parents)}
    content = {"folders": _list_changes(root, folders), "names": names}
    with contextlib.suppress(OutputError):
        write_atomically(kept, json.dumps(content, separators=(",", ":")).encode())
    return _make_definitions(names, root)


def _list_changes(root: Path, folders: Iterable[str]) -> dict[str, int]:
    """When files were last added to some folders or removed from them."""
    return {folder: (root / folder).stat().st_mtime_ns for folder in sorted(folders)}


def _ask_lm_eval() -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bench.scoring.lm_eval_names"], capture_output=True, text=True
    )
    if done.returncode:
        raise InputError(f"lm-eval cannot tell its tasks: {done.stderr.strip().splitlines()[-1]}")
    names: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return names


def _make_definitions(names: Mapping[str, dict[str, Any]], root: Path) -> Index:
    return {
        name: Definition(
            found["kind"],
            root / found["yaml"] if found["yaml"] else None,
            tuple(found.get("members", ())),
        )
        for name, found in names.items()
    }


@cache
def read_folders(folders: tuple[Path, ...]) -> Index:
    """The names in some folders, at any depth: what ``TaskManager(include_path=…)`` adds to its own.

    Raises:
        InputError: a file is not YAML.
    """
    found: Index = {}
    for folder in folders:
        files: Index = {}
        for path in sorted(folder.rglob("*.yaml"), key=Path.as_posix):
            if path.is_file() and not SKIPPED & set(path.parts):
                _add(files, path.resolve())
        for name, entry in files.items():
            before = found.get(name, entry)
            elsewhere = {file for file in (before.yaml, *before.others, *entry.others) if file}
            others = tuple(sorted(elsewhere - {entry.yaml})) if entry.yaml else ()
            found[name] = replace(entry, others=others)
    return found


def _add(index: Index, path: Path) -> None:
    """Add what a file defines; the first file of a folder that defines a name keeps it."""
    config = _read_merged(path)
    name = config.get("group" if "group" in config and "class" not in config else "task")
    if not isinstance(name, str):
        return
    if known := index.get(name):
        if known.yaml not in (None, path):
            index[name] = replace(known, others=(*known.others, path))
        return
    if "class" in config or "group" not in config:
        index[name] = Definition("python" if "class" in config else "task", path)
        for tag in task_yaml.collect_texts(config.get("tag")):
            entry = index.setdefault(tag, Definition("tag"))
            if entry.kind == "tag":
                index[tag] = replace(entry, members=tuple(sorted({*entry.members, name})))
        return
    members = config.get("task")
    members = tuple(members) if isinstance(members, list) else ()
    index[name] = Definition("group", path, members)


def _read_merged(path: Path) -> dict[str, Any]:
    """What a file says with what it includes; by itself where that cannot be read."""
    config = task_yaml.read_file(path)
    if "include" not in config:
        return config
    try:
        return task_yaml.read_whole(path)
    except InputError:  # told when the task is used
        return config
