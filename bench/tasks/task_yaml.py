"""lm-eval's YAML files as they stand: what they say and include; runs none of their functions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import yaml

from replaceme.errors import InputError

MOST_KEYS = 10_000


class Function(str):
    """What ``!function`` names: MODULE.NAME, of a module in ``folder``."""

    folder: Path


class _TaskLoader(yaml.SafeLoader):
    """Reads lm-eval's YAML; ``!function`` stays a text."""

    folder: Path

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put in what merge keys bring, which may double from one to the next."""
        super().flatten_mapping(node)
        if len(node.value) > MOST_KEYS:
            problem = f"merge keys make more than {MOST_KEYS:,} values of it"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _function(loader: _TaskLoader, node: Any) -> Function:
    function = Function(loader.construct_scalar(node))
    function.folder = loader.folder
    return function


_TaskLoader.add_constructor("!function", _function)


def read_file(path: Path) -> dict[str, Any]:
    """What a file itself says; empty where that is no mapping.

    Raises:
        InputError: it cannot be read, or is not YAML.
    """
    try:
        loader = _TaskLoader(path.read_text("utf-8"))
        loader.folder = path.parent
        config = loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)}).") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read: {reason}.") from None
    return config if isinstance(config, dict) else {}


def list_includes(path: Path, config: dict[str, Any]) -> list[Path]:
    """The files that a file includes, in their order."""
    return [path.parent / name for name in collect_texts(config.get("include"))]


def read_whole(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a file says over what it includes.

    Raises:
        InputError: one of the files cannot be read, or includes itself.
    """
    if path.resolve() in including:
        raise InputError(f"{path}: the file includes itself, through {including[-1]}.")
    config = read_file(path)
    parts = [read_whole(file, (*including, path.resolve())) for file in list_includes(path, config)]
    return {key: value for part in [*parts, config] for key, value in part.items() if key != "include"}


def find_module(function: Function) -> Path:
    """The file of a function, if it is in a module beside the task, as lm-eval looks for it first."""
    module, _, _ = function.rpartition(".")
    return (function.folder / f"{module.replace('.', '/')}.py").resolve()


def collect_texts(value: Any, seen: set[int] | None = None) -> list[str]:
    """The texts in some containers, each of which is looked into once."""
    seen = set() if seen is None else seen
    if isinstance(value, str):
        return [value]
    if id(value) in seen or not isinstance(value, dict | list):
        return []
    seen.add(id(value))
    children = value.values() if isinstance(value, dict) else value
    return [text for child in children for text in collect_texts(child, seen)]


def load_functions(value: Any) -> Any:
    """The same with the functions that ``!function`` names; runs their modules."""
    if isinstance(value, Function):
        spec = importlib.util.spec_from_file_location(value.rpartition(".")[0], find_module(value))
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, value.rpartition(".")[2])
    if isinstance(value, dict):
        return {key: load_functions(item) for key, item in value.items()}
    return [load_functions(item) for item in value] if isinstance(value, list) else value
