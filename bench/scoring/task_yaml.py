"""lm-eval's YAML files as they stand: what they say and include; runs none of their functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from replaceme.errors import InputError

MOST_KEYS = 10_000


class Function(str):
    """What ``!function`` names: MODULE.NAME."""


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's YAML; ``!function`` stays a text."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put in what merge keys bring, which may double from one to the next."""
        super().flatten_mapping(node)
        if len(node.value) > MOST_KEYS:
            problem = f"merge keys make more than {MOST_KEYS:,} values of it"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_constructor("!function", lambda loader, node: Function(loader.construct_scalar(node)))  # type: ignore[arg-type]


def read(path: Path) -> dict[str, Any]:
    """What a file itself says; empty where that is no mapping.

    Raises:
        InputError: it cannot be read, or is not YAML.
    """
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


def included(path: Path, config: dict[str, Any]) -> list[Path]:
    """The files that a file includes, in their order."""
    return [path.parent / name for name in strings(config.get("include"))]


def whole(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a file says over what it includes.

    Raises:
        InputError: one of the files cannot be read, or includes itself.
    """
    if path.resolve() in including:
        raise InputError(f"{path}: the file includes itself, through {including[-1]}.")
    config = read(path)
    parts = [whole(file, (*including, path.resolve())) for file in included(path, config)]
    return {key: value for part in [*parts, config] for key, value in part.items() if key != "include"}


def strings(value: Any, seen: set[int] | None = None) -> list[str]:
    """The texts in some containers, each of which is looked into once."""
    seen = set() if seen is None else seen
    if isinstance(value, str):
        return [value]
    if id(value) in seen or not isinstance(value, dict | list):
        return []
    seen.add(id(value))
    children = value.values() if isinstance(value, dict) else value
    return [text for child in children for text in strings(child, seen)]
