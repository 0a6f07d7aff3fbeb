"""Where a task's YAML lies and what identifies its content; does not import lm-eval."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from bench.scoring.presets import PRESETS
from replaceme.errors import InputError, nearest

TASK_LINE = re.compile(rb"^task:[ \t]*[\"']?([\w.-]+)[\"']?[ \t]*(?:#.*)?$", re.MULTILINE)
FUNCTION = re.compile(r"!function\s+([\w.]+)\.\w+")


@dataclass(frozen=True)
class TaskSource:
    """A task as found.

    Attributes:
        yaml: its YAML file; ``None`` for a task inside lm-eval that was not looked up.
        fingerprint: hash of the YAML and of the files it names, or lm-eval's version for its own.
    """

    name: str
    yaml: Path | None
    fingerprint: str


def find(name: str, include_path: list[Path]) -> TaskSource:
    """The task called ``name``: first in the suite's own folders, then in lm-eval.

    Raises:
        InputError: there is none, or it names a file that is missing.
    """
    own = {task: path for folder in include_path for task, path in _tasks_in(folder).items()}
    if name in own:
        return TaskSource(name, own[name], _fingerprint(own[name]))
    version = f"lm_eval=={metadata.version('lm_eval')}"
    if any(name == entry["task"] for entries in PRESETS.values() for entry in entries):
        return TaskSource(name, None, version)
    if name in (builtin := builtin_tasks()):
        return TaskSource(name, builtin[name], version)
    known = [*own, *PRESETS, *builtin]
    raise InputError(
        f"unknown task {name!r}{nearest(name, known)} Allowed are the tasks in include_path "
        f"({', '.join(sorted(own)) or 'none'}), the presets ({', '.join(PRESETS)}), and lm-eval's own "
        f"single tasks ('replaceme-bench list tasks')."
    )


def yaml_of(source: TaskSource) -> Path:
    """The YAML file of a task, looked up in lm-eval where that was put off."""
    return source.yaml or builtin_tasks()[source.name]


def tasks_in(folders: list[Path]) -> list[str]:
    """Names of the tasks defined in some folders."""
    return sorted(name for folder in folders for name in _tasks_in(folder))


@cache
def builtin_tasks() -> dict[str, Path]:
    """Name → YAML file of every single task inside lm-eval (groups and tags are not single tasks)."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        return {}
    found: dict[str, Path] = {}
    for path in sorted((Path(spec.submodule_search_locations[0]) / "tasks").rglob("*.yaml")):
        text = path.read_bytes()
        if (match := TASK_LINE.search(text)) and not text.startswith(b"group:"):
            found.setdefault(match[1].decode(), path)
    return found


@cache
def _tasks_in(folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        config = _read(path)
        if isinstance(config.get("task"), str):
            found[config["task"]] = path
    return found


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's YAML; ``!function`` stays a text."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]


def _read(path: Path) -> dict[str, Any]:
    try:
        config = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)}).") from None
    return config if isinstance(config, dict) else {}


def _fingerprint(path: Path) -> str:
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def _files(path: Path) -> list[Path]:
    """The YAML, what it includes, its local data files, and the modules of its functions."""
    config = _read(path)
    folder = path.parent
    included = config.get("include", [])
    included = included if isinstance(included, list) else [included]
    files = [path, *(file for name in included for file in _files(folder / name))]
    data = (config.get("dataset_kwargs") or {}).get("data_files") or []
    for name in _strings(data):
        if "://" in name:
            continue
        matches = sorted(folder.glob(name)) if not Path(name).is_absolute() else [Path(name)]
        if not matches or not matches[0].is_file():
            raise InputError(
                f"{path}: data_files names {name!r}, and there is no such file in {folder}."
            )
        files += matches
    modules = {match.replace(".", "/") + ".py" for match in FUNCTION.findall(path.read_text("utf-8"))}
    return files + sorted(folder / module for module in modules if (folder / module).is_file())


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value
    return [text for child in children for text in _strings(child)]
