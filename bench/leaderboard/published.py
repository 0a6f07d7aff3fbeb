"""Published tables by name or by model, to be quoted beside what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from bench.leaderboard.leaderboard import task_note
from bench.leaderboard.published_file import folder, load, names
from bench.leaderboard.quoting import in_order, quoted
from bench.leaderboard.table import Table, Value
from replaceme.errors import InputError, nearest

ALL = "published"
ENDINGS = {"hf", "instruct", "it", "chat"}  # of names that are the same for a quotation


def table(name: str) -> Table:
    """A published table, or several that are shown as one, to be quoted."""
    published = load(name)
    if not published.include:
        return quoted(published)
    parts = [quoted(load(part)) for part in published.include]
    columns = {column.key: column for part in parts for column in part.columns}
    groups = [
        replace(group, title=f"{group.title} · {load(name).source}")
        for name, part in zip(published.include, parts, strict=True)
        for group in part.groups
    ]
    filled = [
        replace(g, rows=[replace(r, values=dict.fromkeys(columns, Value()) | r.values) for r in g.rows])
        for g in groups
    ]
    tasks = list(dict.fromkeys(task for part in parts for task in part.tasks))
    columns |= {k: replace(c, note=task_note(tasks)) for k, c in columns.items() if c.kind == "task"}
    remarks = list(dict.fromkeys(remark for part in parts for remark in part.remarks))
    title, source = published.title, "several sources, named in the table"
    return Table(in_order(columns), filled, remarks, tasks, title=title, source=source)


def is_named(source: str) -> bool:
    """Whether this is the name of a table, or stands for all; a folder of that name comes first."""
    path = Path(source)
    if path.is_dir():
        return path.resolve() == folder().resolve()
    return source == ALL or source in names()


def named(source: str) -> list[Table]:
    """The table of that name, or all of them."""
    if source in names():
        return [table(source)]
    return [table(name) for name in names() if not load(name).include]


def unknown(source: str) -> InputError:
    """The error about what is neither results nor a table."""
    hint = nearest(source, [*names(), ALL])
    return InputError(
        f"{source} is neither a result folder nor a published table{hint} Tables are "
        f"{', '.join(names())}, and {ALL} for all."
    )


def nothing_about(wanted: list[str]) -> str:
    """The sentence about models that nothing was published about."""
    return (
        f"quoted: no published table has {', '.join(wanted)}; there are rows of {', '.join(models())}. "
        f"'report DIR paper-main' shows a table by its name."
    )


def of_models(wanted: Iterable[str]) -> list[Table]:
    """The published rows of these models, in their tables.

    Names are equal up to organisation, case, separators, and endings such as ``-hf`` and ``-Instruct``.
    """
    normal = set(map(_normalised, wanted))
    found = []
    for name in names():
        published = load(name)
        rows = [row for row in published.rows if _normalised(row.model) in normal]
        if rows:
            found.append(quoted(published.model_copy(update={"rows": rows})))
    return found


def models() -> list[str]:
    """The models that published rows are of."""
    return list(dict.fromkeys(row.model for name in names() for row in load(name).rows))


def _normalised(model: str) -> tuple[str, ...]:
    """Words and numbers of a name: ``Llama3.1-8B`` and ``llama_3.1_8b`` are llama, 3.1, 8, b."""
    parts = re.findall(r"[^\W\d_]+|\d+(?:\.\d+)*", model.rstrip("/").rpartition("/")[2].lower())
    while parts and parts[-1] in ENDINGS:
        parts.pop()
    return tuple(parts[1:] if parts[:1] == ["meta"] else parts)
