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
from replaceme.calibration import PICKLES
from replaceme.errors import InputError, nearest
from replaceme.yaml_file import shown

MOST_KEYS = 10_000
TASK_LINE = re.compile(rb"^task:[ \t]*[\"']?([\w.-]+)[\"']?[ \t]*(?:#.*)?$", re.MULTILINE)


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
        InputError: there is none, or more than one, or it names a file that is missing.
    """
    own = _tasks_in(tuple(include_path))
    if len(paths := own.get(name, [])) > 1:
        raise InputError(
            f"the task {name!r} is defined twice in include_path, by {paths[0]} and by {paths[1]}; give "
            f"one of them another name."
        )
    if paths:
        return TaskSource(name, paths[0], _fingerprint(paths[0], include_path))
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


def dataset_of(name: str, fingerprint: str | None) -> dict[str, str]:
    """``path``, ``config`` and ``split`` of the data set of one of lm-eval's own tasks.

    Empty for another version of lm-eval than the one that is installed, and for other tasks.
    """
    if fingerprint != f"lm_eval=={metadata.version('lm_eval')}" or name not in builtin_tasks():
        return {}
    config = _whole(builtin_tasks()[name])
    split = config.get("test_split") or config.get("validation_split")
    found = {"path": config.get("dataset_path"), "config": config.get("dataset_name"), "split": split}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def tasks_in(folders: list[Path]) -> list[str]:
    """Names of the tasks defined in some folders."""
    return sorted(_tasks_in(tuple(folders)))


@cache
def builtin_tasks() -> dict[str, Path]:
    """Name → YAML file of every single task inside lm-eval (groups and tags are not single tasks)."""
    if (folder := _lm_eval()) is None:
        return {}
    found: dict[str, Path] = {}
    for path in sorted((folder / "tasks").rglob("*.yaml")):
        text = path.read_bytes()
        if (match := TASK_LINE.search(text)) and not text.startswith(b"group:"):
            found.setdefault(match[1].decode(), path)
    return found


@cache
def _tasks_in(folders: tuple[Path, ...]) -> dict[str, list[Path]]:
    """Name → the YAML files in some folders, at any depth, that define it."""
    found: dict[str, list[Path]] = {}
    files = {path.resolve() for folder in folders for path in folder.rglob("*.yaml") if path.is_file()}
    for path in sorted(files):
        name = _read(path).get("task")
        if isinstance(name, str):
            found.setdefault(name, []).append(path)
    return found


class _Function(str):
    """What ``!function`` names: MODULE.NAME."""


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's YAML; ``!function`` stays a text."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put in what merge keys bring, which may double from one to the next."""
        super().flatten_mapping(node)
        if len(node.value) > MOST_KEYS:
            problem = f"merge keys make more than {MOST_KEYS:,} values of it"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_constructor("!function", lambda loader, node: _Function(loader.construct_scalar(node)))  # type: ignore[arg-type]


def _read(path: Path) -> dict[str, Any]:
    try:
        config = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)}).") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read: {reason}.") from None
    return config if isinstance(config, dict) else {}


def _whole(path: Path) -> dict[str, Any]:
    """A task's YAML over what it includes."""
    config = _read(path)
    included = [_whole(path.parent / name) for name in _strings(config.get("include"))]
    return {key: value for part in [*included, config] for key, value in part.items()}


def _fingerprint(path: Path, include_path: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in _files(path, include_path):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def _files(path: Path, include_path: list[Path], including: tuple[Path, ...] = ()) -> list[Path]:
    """The YAML, what it includes, its local data files, and the modules of its functions."""
    if path.resolve() in including:
        raise InputError(f"{path}: the file includes itself, through {including[-1]}.")
    config = _read(path)
    folder, chain = path.parent, (*including, path.resolve())
    files = [path]
    for name in _strings(config.get("include")):
        files += _files(folder / name, include_path, chain)
    settings = config.get("dataset_kwargs")
    data = settings.get("data_files") if isinstance(settings, dict) else None
    for name in _strings(data):
        if Path(name).suffix in PICKLES or config.get("dataset_path") == "pandas":
            raise InputError(
                f"{path}: data_files names {shown(name)!r}, a pickle, which can run code when read."
            )
        if "://" in name:
            continue
        whole = Path(name).is_absolute() or not name
        matches = [folder / name] if whole else sorted(folder.glob(name))
        if not matches or not matches[0].is_file():
            raise InputError(
                f"{path}: data_files names {name!r}, and there is no such file in {folder}."
            )
        files += matches
    functions = {text for text in _strings(config) if isinstance(text, _Function)}
    return files + sorted({_module(path, function, include_path) for function in functions})


def _module(path: Path, function: str, include_path: list[Path]) -> Path:
    """The file of a function that a task names, which will be run.

    lm-eval would also take any module that Python can import, and any file by its absolute path.

    Raises:
        InputError: it is not inside lm-eval, nor in a folder that the suite names.
    """
    module, _, _ = function.rpartition(".")
    file = (path.parent / f"{module.replace('.', '/')}.py").resolve()
    allowed = [folder.resolve() for folder in include_path] + [_lm_eval()]
    if not any(file.is_relative_to(folder) for folder in allowed if folder) or not file.is_file():
        raise InputError(
            f"{path}: !function {shown(function)}: the function must be in a Python file beside the "
            f"task, in a folder that score.include_path names."
        )
    return file


def _lm_eval() -> Path | None:
    """Where lm-eval is installed; looked up, not imported."""
    spec = importlib.util.find_spec("lm_eval")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]).resolve() if places else None


def _strings(value: Any, seen: set[int] | None = None) -> list[str]:
    """The texts in some containers, each of which is looked into once."""
    seen = set() if seen is None else seen
    if isinstance(value, str):
        return [value]
    if id(value) in seen or not isinstance(value, dict | list):
        return []
    seen.add(id(value))
    children = value.values() if isinstance(value, dict) else value
    return [text for child in children for text in _strings(child, seen)]
