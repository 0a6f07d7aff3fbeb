"""The table model that every renderer shows: columns, groups of rows, notes, quoted tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Mark = Literal["bold", "star", "none"]


@dataclass(frozen=True)
class Column:
    """A column; ``priority`` 0 is never left out for lack of width, lower numbers go first.

    ``better`` is ``higher``, ``lower``, or ``None`` where neither is. ``note``: its definition.
    """

    key: str
    header: str
    unit: str
    priority: int
    better: str | None = None
    digits: int = 1
    note: str = ""

    @property
    def kind(self) -> str:
        """What columns of one family share: ``task`` of ``task:piqa``."""
        return self.key.partition(":")[0]

    @property
    def textual(self) -> bool:
        """Whether it holds texts, which stand left; numbers stand right."""
        return self.kind in TEXTUAL


TEXTUAL = {"model", "label", "block", "training_free", "detail", "ratio", "source"}


@dataclass(frozen=True)
class Value:
    """A cell of the table: a number in its column's unit with its standard error, or a text.

    ``None`` means unknown, and is shown as a dash. A quoted number has its printed form as text.
    ``best``: the best of its column among the variants of one model and cut. ``noisy``: something
    disturbed its measurement, and it is in no ranking.
    """

    number: float | None = None
    stderr: float | None = None
    text: str | None = None
    best: bool = False
    noisy: bool = False

    @property
    def ranked(self) -> float | None:
        """The number as rankings see it: unknown where it is noisy."""
        return None if self.noisy else self.number


@dataclass(frozen=True)
class Row:
    """A variant; ``layers`` removed, ``None`` where a source does not say.

    ``best``: the best average of its model and cut. ``source``: where a quoted row is printed; ``None``:
    measured here. ``warning``: why its numbers should be read with care.
    """

    values: dict[str, Value]
    layers: int | None
    best: bool = False
    failure: str | None = None
    warning: str | None = None
    source: str | None = None

    @property
    def label(self) -> str:
        return self.values["label"].text or ""

    @property
    def model(self) -> str:
        return self.values["model"].text or ""

    def list_noisy(self, columns: list[Column]) -> list[str]:
        """Keys of the columns in which its value is noisy."""
        return [column.key for column in columns if self.values[column.key].noisy]


@dataclass(frozen=True)
class Group:
    """Rows that may be ranked together: of one model, or as ``--group-by`` says.

    ``place``: the engine and device of its latencies; ``folder``: where its records lie, if there are
    several. Rows of different places and folders are never in one group.
    """

    title: str
    rows: list[Row]
    place: str = ""
    folder: str = ""

    @property
    def heading(self) -> str:
        return " · ".join(filter(None, [self.title, self.place, self.folder]))

    @property
    def sections(self) -> list[list[Row]]:
        """Consecutive rows of the same cut; all in one where the cuts are not in order."""
        found: list[list[Row]] = []
        for row in self.rows:
            if found and found[-1][0].layers == row.layers:
                found[-1].append(row)
            else:
                found.append([row])
        cuts = [rows[0].layers for rows in found]
        ordered = len(set(cuts)) == len(cuts) and len(found) < len(self.rows)
        return found if ordered else [self.rows]


@dataclass(frozen=True)
class TaskInfo:
    """How a task was scored; ``None`` where a source does not say."""

    name: str
    metric: str | None
    num_fewshot: int | None
    version: str | None
    items: int | None
    average: bool
    prompt: str | None = None


@dataclass(frozen=True)
class Table:
    """A leaderboard, or a table of a publication.

    ``spare``: columns that are shown only when asked for. ``quoted``: published tables, which are shown
    apart and are in no ranking; ``title`` and ``source`` are those of such a table. ``mark``: how the
    best are marked; ``None``: as is usual in a format. ``apart``: whether there is a best of what was
    trained and one of what was not. ``chosen``: whether its columns were asked for.
    ``noise``: what disturbed noisy values, for tables that show any.
    """

    columns: list[Column]
    groups: list[Group]
    remarks: list[str]
    tasks: list[TaskInfo] = field(default_factory=list)
    spare: list[Column] = field(default_factory=list)
    quoted: list[Table] = field(default_factory=list)
    title: str | None = None
    source: str | None = None
    mark: Mark | None = None
    apart: bool = False
    chosen: bool = False
    noise: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What stands below: the definitions of the columns shown, then the remarks."""
        definitions = [column.note for column in self.columns if column.note]
        noise = self.noise if any(row.list_noisy(self.columns) for row in self.rows) else []
        return list(dict.fromkeys([*definitions, *self.remarks, *noise]))

    @property
    def rows(self) -> Iterator[Row]:
        return (row for group in self.groups for row in group.rows)


def show(value: Value, column: Column) -> str:
    """The text of a cell, the same in every rendering; a noisy number has a question mark."""
    if value.text is not None:
        return value.text
    if value.number is None:
        return "–?" if value.noisy else "–"
    digits = column.digits if abs(value.number) < 1000 else 0
    number = f"{value.number:,.{digits}f}{'?' * value.noisy}"
    return number if value.stderr is None else f"{number} ±{value.stderr:.{column.digits}f}"
