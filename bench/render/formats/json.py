"""Leaderboard as JSON, with keys that stay as they are.

``{"format": 1, "columns", "groups", "tasks", "notes", "quoted"}``:

- a column: ``key``, ``header``, ``unit``, ``better`` (``higher``, ``lower`` or null);
- a group: ``title``, ``place`` (engine and device of its latencies), ``folder`` (of several), ``rows``;
- a row: ``model``, ``label``, ``layers``, ``source`` (null: measured), ``best``, ``warning``,
  ``failure``, ``values``: column key → ``number`` in the column's unit, ``stderr``, ``text`` (of a
  quoted number: as printed), ``best``, ``noisy``. Unknown is null;
- a task: ``name``, ``metric``, ``num_fewshot``, ``version``, ``items``, ``average`` (whether it counts);
- a quoted table: the same keys without ``quoted``, and ``title`` and ``source``.
"""

import json
from dataclasses import asdict
from typing import Any

from bench.leaderboard.table import Column, Row, Table
from bench.render.escape import json_text

FORMAT = 1


def render(table: Table) -> str:
    content = {"format": FORMAT} | _table(table)
    content["quoted"] = [
        {"title": quoted.title, "source": quoted.source} | _table(quoted) for quoted in table.quoted
    ]
    return json_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _table(table: Table) -> dict[str, Any]:
    return {
        "columns": [_column(column) for column in table.columns],
        "groups": [
            {
                "title": group.title,
                "place": group.place,
                "folder": group.folder,
                "rows": [_row(row, table.columns) for row in group.rows],
            }
            for group in table.groups
        ],
        "tasks": [asdict(task) for task in table.tasks],
        "notes": table.notes,
    }


def _column(column: Column) -> dict[str, Any]:
    return {name: getattr(column, name) for name in ("key", "header", "unit", "better")}


def _row(row: Row, columns: list[Column]) -> dict[str, Any]:
    names = ("model", "label", "layers", "source", "best", "warning", "failure")
    values = {column.key: asdict(row.values[column.key]) for column in columns}
    return {name: getattr(row, name) for name in names} | {"values": values}
