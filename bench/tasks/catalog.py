"""Where a task's YAML lies and what identifies its content; does not import lm-eval."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.tasks import index, task_files, task_yaml
from bench.tasks.presets import PRESETS
from replaceme.errors import InputError, nearest


@dataclass(frozen=True)
class TaskSource:
    """A task as found.

    Attributes:
        yaml: its YAML file; ``None`` for a task inside lm-eval that was not looked up. Of a task that
            stands in a group's file, that file.
        fingerprint: hash of the YAML and of the files it names, or lm-eval's version for its own; and of
            what a group changes.
        overrides: what a group changes in its YAML, or all that is said of a task without one.
        group: whose ``overrides`` they are.
    """

    name: str
    yaml: Path | None
    fingerprint: str
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    group: str | None = None


def find_task(name: str, include_path: list[Path]) -> TaskSource:
    """The task called ``name``: first in the suite's own folders, then in lm-eval.

    Raises:
        InputError: there is none, or more than one, or it names a file that is missing.
    """
    if path := _find_own_file(name, include_path):
        return TaskSource(name, path, task_files.hash_task(path, include_path))
    version = f"lm_eval=={metadata.version('lm_eval')}"
    if in_preset(name):
        return TaskSource(name, None, version)
    found = find_definition(name, include_path)
    if not is_task(found):
        raise InputError(f"{name!r} is a {found.kind}, not a task.")
    return TaskSource(name, found.yaml, version)


def apply_overrides(
    source: TaskSource, overrides: Mapping[str, Any], group: str, include_path: list[Path]
) -> TaskSource:
    """A task as a group changes it; one without a fingerprint stands in the group's own file.

    Raises:
        InputError: a file that is named is missing, or a function may not be run.
    """
    if not overrides:
        return source
    inline = not source.fingerprint
    name = f"{group}::{source.name}" if inline else source.name
    digest = hashlib.sha256(json.dumps(overrides, sort_keys=True, default=str).encode())
    path = yaml_of(source)
    changed = dict(overrides)
    if not inline and {"dataset_path", "dataset_kwargs"} & changed.keys():
        changed = task_yaml.read_whole(path) | changed  # data are named by both keys together
    task_files.add_files(digest, task_files.list_named_files(path, changed, include_path), path.parent)
    base = source.fingerprint or f"lm_eval=={metadata.version('lm_eval')}"
    return TaskSource(
        name, source.yaml, f"{base} with sha256:{digest.hexdigest()}", dict(overrides), group
    )


def is_known(name: str, include_path: list[Path]) -> bool:
    """Whether a name stands for something."""
    return name in index.read_folders(tuple(include_path)) or name in index.read_builtin()


def find_definition(name: str, include_path: list[Path], said: str = "") -> index.Definition:
    """What a name stands for: in the suite's own folders, then in lm-eval.

    Args:
        said: how an error begins.

    Raises:
        InputError: nothing, or more than one thing.
    """
    own = index.read_folders(tuple(include_path))
    found = own.get(name) or index.read_builtin().get(name)
    if found is None:
        known = [*own, *PRESETS, *index.read_builtin()]
        raise InputError(
            f"{said}unknown task {name!r}{nearest(name, known)} Allowed are the names in include_path "
            f"({', '.join(sorted(own)) or 'none'}), the presets ({', '.join(PRESETS)}), and every task, "
            f"group and tag of lm-eval ('replaceme-bench list tasks')."
        )
    if found.others:
        raise InputError(
            f"the {found.kind} {name!r} is defined twice in include_path, by {found.others[0]} and by "
            f"{found.yaml}; give one of them another name."
        )
    return found


def _find_own_file(name: str, include_path: list[Path]) -> Path | None:
    """The file of a task in the suite's own folders."""
    found = index.read_folders(tuple(include_path)).get(name)
    return find_definition(name, include_path).yaml if found and is_task(found) else None


def in_preset(name: str) -> bool:
    """Whether a task of lm-eval is so well known that lm-eval need not be asked."""
    return any(name == task["task"] for tasks in PRESETS.values() for task in tasks)


def yaml_of(source: TaskSource) -> Path:
    """The YAML file of a task, looked up in lm-eval where that was put off."""
    return source.yaml or builtin_tasks()[source.name]


@cache
def builtin_tasks() -> dict[str, Path]:
    """Name → YAML file of every single task inside lm-eval."""
    return {
        name: found.yaml for name, found in index.read_builtin().items() if found.yaml and is_task(found)
    }


def is_task(found: index.Definition) -> bool:
    """Whether a name stands for a single task."""
    return found.kind in ("task", "python")


def describe_for_manager(source: TaskSource) -> tuple[str | dict[str, Any], list[str]]:
    """What lm-eval's ``TaskManager`` loads a task from, and the folders that it has to know.

    A group of this task alone has lm-eval put in what a group changes; all of a task that stands in a
    group's own file is said there.
    """
    path = yaml_of(source).resolve()
    if not source.overrides:
        return str(path), []
    said = {"task": source.name, **task_yaml.load_functions(dict(source.overrides))}
    if source.name.startswith(f"{source.group}::"):
        return said, []
    return {"group": source.group, "task": [said]}, [str(path.parent)]


def dataset_of(name: str, fingerprint: str | None) -> dict[str, str]:
    """``path``, ``config`` and ``split`` of the data set of one of lm-eval's own tasks.

    Empty for another version of lm-eval than the one that is installed, and for other tasks.
    """
    if fingerprint != f"lm_eval=={metadata.version('lm_eval')}":
        return {}
    if (path := builtin_tasks().get(name)) is None:
        return {}
    config = task_yaml.read_whole(path)
    split = config.get("test_split") or config.get("validation_split")
    data = {"path": config.get("dataset_path"), "config": config.get("dataset_name"), "split": split}
    return {key: value for key, value in data.items() if isinstance(value, str)}


UNSAFE = (
    "the task runs code that the model writes; confirm_run_unsafe_code: true in 'score' lets it, where "
    "that code can do no harm."
)


def runs_code_of_models(source: TaskSource) -> bool:
    """Whether lm-eval marks a task as unsafe, for it runs what a model writes."""
    config = task_yaml.read_whole(yaml_of(source)) | dict(source.overrides)
    return config.get("unsafe_code") is True


def hub_dataset_of(source: TaskSource) -> str | None:
    """The data set on the hub that a task of the suite's own folders names."""
    path = yaml_of(source)
    return task_files.find_hub_dataset(path, task_yaml.read_whole(path) | dict(source.overrides))
