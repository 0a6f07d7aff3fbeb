"""A published table → the leaderboard's table model, every row with its source.

What is computed here and not printed is marked as such below the table.
"""

from __future__ import annotations

from bench.leaderboard.averages import mean, relative
from bench.leaderboard.differences import differences
from bench.leaderboard.leaderboard import task_note
from bench.leaderboard.published_file import Published, PublishedRow
from bench.leaderboard.table import Column, Group, Row, Table, TaskInfo, Value


def quoted(published: Published) -> Table:
    """The table in the leaderboard's model, every row with its source."""
    wrong: dict[PublishedRow, list[str]] = {}
    for difference in differences(published):
        wrong.setdefault(difference.row, []).append(str(difference))
    columns = {column.key: column for column in _columns(published)}
    rows: dict[str, list[Row]] = {}
    for row in published.rows:
        warning = "; ".join(wrong.get(row, [])) or None
        rows.setdefault(row.model, []).append(_row(published, row, set(columns), warning))
    groups = [Group(model, found) for model, found in rows.items()]
    remarks = [*_remarks(published), *(f"{note}." for note in published.notes)]
    remarks += [f"! {sentence}." for sentences in wrong.values() for sentence in sentences]
    return Table(
        in_order(columns),
        groups,
        remarks,
        _tasks(published),
        title=published.title,
        source=published.source,
    )


def _columns(published: Published) -> list[Column]:
    columns = [Column("label", "method", "", 0), Column("training_free", "training-free", "", 1)]
    if any(row.detail for row in published.rows):
        columns.append(Column("detail", published.detail or "", "", 0))
    if any(row.ratio for row in published.rows):
        columns.append(Column("ratio", "ratio", "", 1))
    if any(row.layers for row in published.rows):
        columns.append(Column("layers", "cut", "", 2, digits=0))
    columns += [_column(published, key) for key in published.columns]
    if _computes_rp(published):
        tasks = any(published.averaged(row) for row in published.rows)
        basis = "means of the printed tasks" if tasks else "printed averages"
        note = f"RP: computed here from the {basis}; the source prints none."
        columns.append(Column("rp", "RP", "%", 0, "higher", note=note))
    return columns


def _column(published: Published, key: str) -> Column:
    column, kind = published.columns[key], key.partition(":")[0]
    unit = column.unit if column.unit is not None else "" if kind == "ppl" else published.unit
    better, priority = "lower" if kind == "ppl" else "higher", {"task": 4, "ppl": 3}.get(kind, 0)
    tasks, note = _tasks(published), ""
    if kind == "task" and any(task.metric for task in tasks):
        note = task_note(tasks)
    if kind == "average" and published.average:
        note = f"{column.header}: {published.average}."
    return Column(key, column.header, unit, priority, better, note=note)


def in_order(columns: dict[str, Column]) -> list[Column]:
    """Method first, then the tasks, then perplexity, Avg-acc and RP as in the paper's tables."""
    kinds = ["label", "training_free", "detail", "ratio", "layers", "task", "ppl", "average", "rp"]
    return sorted(columns.values(), key=lambda column: kinds.index(column.kind))


def _computes_rp(published: Published) -> bool:
    if "rp" in published.columns or "average" not in published.columns:
        return False
    return any(_baseline_average(published, row.model) for row in published.rows)


def _row(published: Published, row: PublishedRow, keys: set[str], warning: str | None) -> Row:
    free = {True: "yes", False: "no", None: None}[row.training_free]
    values = {
        "model": Value(text=row.model),
        "label": Value(text=row.method),
        "layers": Value(row.layers),
        "training_free": Value(text=free),
        "ratio": Value(text=row.ratio),
        "detail": Value(text=row.detail),
    }
    printed = published.printed(row)
    values |= {key: Value(float(text), text=text) for key, text in printed.items()}
    if _computes_rp(published):
        whole = _baseline_average(published, row.model)
        values["rp"] = Value(relative(_average(published, row), whole))
    filled = dict.fromkeys(keys, Value()) | values
    return Row(filled, row.layers, warning=warning, source=published.source)


def _average(published: Published, row: PublishedRow) -> float | None:
    """The mean of the printed tasks, or the printed average where they are not printed."""
    if tasks := published.averaged(row):
        return mean([float(task) for task in tasks])
    printed = published.printed(row).get("average")
    return float(printed) if printed else None


def _baseline_average(published: Published, model: str) -> float | None:
    if elsewhere := published.baselines.get(model):
        return float(elsewhere.average)
    rows = [row for row in published.rows if row.model == model and row.layers == 0]
    return _average(published, rows[0]) if rows else None


def _remarks(published: Published) -> list[str]:
    return [
        f"Baseline of {model}: {baseline.average}, from {baseline.source}."
        for model, baseline in published.baselines.items()
    ]


def _tasks(published: Published) -> list[TaskInfo]:
    return [
        TaskInfo(key.partition(":")[2], c.metric, c.num_fewshot, None, None, c.average)
        for key, c in published.columns.items()
        if key.startswith("task:")
    ]
