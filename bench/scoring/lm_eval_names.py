"""Prints every name that lm-eval's ``TaskManager`` knows as JSON; run as a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval import tasks

if TYPE_CHECKING:
    from lm_eval.tasks._index import Entry

KINDS = {"TASK": "task", "PY_TASK": "python", "GROUP": "group", "TAG": "tag"}


def describe(entry: Entry, root: Path) -> dict[str, Any]:
    """An entry of ``TaskManager.task_index``; the file relative to the folder of lm-eval's tasks."""
    kind = KINDS[entry.kind.name]
    found = {
        "kind": kind,
        "yaml": str(entry.yaml_path.relative_to(root)) if entry.yaml_path else "",
        "members": sorted(entry.tags) if kind == "tag" else [],
    }
    if kind == "group":
        found["members"] = (entry.cfg or {}).get("task", [])
    return {key: value for key, value in found.items() if value or key in ("kind", "yaml")}


def main() -> None:
    """Print {name: entry}."""
    root = Path(tasks.__file__).parent
    index = tasks.TaskManager().task_index
    print(json.dumps({name: describe(entry, root) for name, entry in index.items()}, default=str))


if __name__ == "__main__":
    main()
