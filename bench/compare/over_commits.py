"""A metric of every cell over the git commits that changed a results folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.leaderboard import leaderboard
from bench.leaderboard.table import Column, Table, Value
from bench.names import cell_name
from bench.records import Record
from bench.results import Key, at_revision, git
from replaceme.errors import InputError, nearest

FIELDS = "%H%x1f%h%x1f%cI%x1f%s%x1e"  # unit and record separators cannot be in a subject line


@dataclass(frozen=True)
class Point:
    """The results folder at one commit.

    Attributes:
        values: cell → the metric, unknown where the cell did not have it.
        other_items: whether tasks, few-shot counts, limits or data are not those of the point before, so
            that scores of the two say nothing about each other.
        problem: why the records of that commit cannot be read.
    """

    commit: str
    date: str
    subject: str
    values: dict[Key, Value] = field(default_factory=dict)
    other_items: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class History:
    """Points from the oldest to the newest; ``column`` says what their numbers are."""

    folder: str
    column: Column
    points: list[Point]

    @property
    def cells(self) -> list[Key]:
        """All cells that ever had a value: by model and cut."""
        found = {key for point in self.points for key in point.values}
        return sorted(found)


def read_history(folder: Path, metric: str) -> History:
    """The history of a folder in its git repository.

    Args:
        metric: a column of the leaderboard, such as ``average`` or ``rp``, or the name of a task.

    Raises:
        InputError: no repository, no commit of the folder, or a metric that no commit has.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name a results folder in a git repository.")
    log = git(folder, "log", "--reverse", "--no-show-signature", f"--format={FIELDS}", "--", ".").decode(
        errors="replace"
    )
    points: list[Point] = []
    columns: dict[str, Column] = {}
    asked: str | None = None
    for entry in filter(None, (part.strip("\n") for part in log.split("\x1e"))):
        commit, short, date, subject = entry.split("\x1f", 3)
        try:
            records = list(at_revision(commit, "./", folder).records.values())
        except InputError as error:
            problem = str(error).replace(f"{commit}:.//", "").replace(commit, short)
            points.append(Point(short, date, subject, problem=problem))
            continue
        table = leaderboard.build(records)
        known = {column.key: column for column in table.columns}
        columns |= known
        column = known.get(metric) or known.get(f"task:{metric}")
        values = _values(table, column.key) if column else {}
        before, asked = asked, _asked(records)
        points.append(Point(short, date, subject, values, before not in (None, asked)))
    if not points:
        raise InputError(f"no commit has touched {folder}; commit results to see their history.")
    found = columns.get(metric) or columns.get(f"task:{metric}")
    if found is None:
        names = [key.removeprefix("task:") for key, column in columns.items() if column.better]
        allowed = f"; there are {', '.join(names)}" if names else ""
        raise InputError(f"no commit has the metric {metric!r}{nearest(metric, names)[:-1]}{allowed}.")
    return History(str(folder), found, points)


def _asked(records: Iterable[Record]) -> str:
    """What the tasks asked, as one text."""
    tasks = {
        (name, task.primary, task.version, task.num_fewshot, task.identity.limit, task.identity.data)
        for record in records
        for name, task in record.quality.items()
    }
    return repr(sorted(map(repr, tasks)))


def _values(table: Table, column: str) -> dict[Key, Value]:
    """Cell → its value in the leaderboard's column."""
    found: dict[Key, Value] = {}
    for row in table.rows:
        value = row.values[column]
        if value.number is not None:
            found[row.model, row.layers or 0, row.label] = value
    return found


def names(cells: Sequence[Key]) -> list[str]:
    """Cells as texts, without the model where there is one only."""
    several = len({model for model, *_ in cells}) > 1
    return [cell_name(*key) if several else cell_name(*key).split("/", 1)[1] for key in cells]
