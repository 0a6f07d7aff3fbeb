"""Records → one table model, which every renderer shows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bench.records import Record
from bench.serving import Workload


@dataclass(frozen=True)
class Column:
    """A column; ``priority`` 0 is never left out for lack of width, higher ones go first.

    ``better`` is ``higher``, ``lower``, or ``None`` where neither is.
    """

    key: str
    header: str
    unit: str
    priority: int
    better: str | None = None
    digits: int = 1


@dataclass(frozen=True)
class Value:
    """A cell of the table: a number in its column's unit with its standard error, or a text.

    ``None`` means unknown, and is shown as a dash.
    """

    number: float | None = None
    stderr: float | None = None
    text: str | None = None


@dataclass(frozen=True)
class Row:
    values: dict[str, Value]
    layers: int
    best: bool = False
    failure: str | None = None
    warning: str | None = None


@dataclass(frozen=True)
class Group:
    """The rows of one model."""

    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Table:
    columns: list[Column]
    groups: list[Group]
    notes: list[str]


def show(value: Value, column: Column) -> str:
    """The text of a cell, the same in every rendering."""
    if value.text is not None:
        return value.text
    if value.number is None:
        return "–"
    digits = column.digits if abs(value.number) < 1000 else 0
    number = f"{value.number:,.{digits}f}"
    return number if value.stderr is None else f"{number} ±{value.stderr:.{column.digits}f}"


def build(records: Iterable[Record]) -> Table:
    """The leaderboard of some records: grouped by model, baseline first, then by layers removed.

    Of several records of one cell (an older calibration, say) the latest counts.
    """
    latest: dict[tuple[str, int, str], Record] = {}
    older = 0
    for record in sorted(records, key=lambda record: record.updated or ""):
        key = (record.model, record.layers, record.label)
        older += key in latest
        latest[key] = record
    shown = list(latest.values())
    columns = _columns(shown)
    groups = [
        _group(model, [record for record in shown if record.model == model], columns)
        for model in dict.fromkeys(record.model for record in shown)
    ]
    return Table(columns, groups, _notes(shown, older))


def _tasks(records: list[Record]) -> dict[str, str]:
    """Task → primary metric, in the order of the suite."""
    return {name: task.primary for record in records for name, task in record.quality.items()}


def _workloads(records: list[Record]) -> list[Workload]:
    """The workloads measured, in the order of the suite."""
    measured = [record.serving.result.workloads for record in records if record.serving]
    return list(dict.fromkeys(load.workload for loads in measured for load in loads))


def _head(load: Workload) -> str:
    return f"b{load.batch_size} {load.input_len}→{load.output_len}"


def _columns(records: list[Record]) -> list[Column]:
    columns = [Column("label", "variant", "", 0), Column("layers", "cut", "", 0, digits=0)]
    columns.append(Column("block", "layers out", "", 6))
    tasks = _tasks(records)
    if tasks:
        columns.append(Column("average", "avg", "%", 0, "higher"))
        columns.append(Column("rp", "RP", "%", 0, "higher"))
    if any(record.prune and record.prune.loss for record in records):
        columns.append(Column("loss", "loss", "nats", 3, "lower", 3))
    for name, metric in tasks.items():
        header = f"{name.removeprefix('demo_')} {metric}"
        columns.append(Column(f"task:{name}", header, "%", 4, "higher"))
    for name in tasks:
        if any(
            name in record.quality and "perplexity" in record.quality[name].metrics for record in records
        ):
            short = name.removeprefix("demo_")
            columns.append(Column(f"ppl:{name}", f"{short} ppl", "", 5, "lower"))
    loads = _workloads(records)
    for load in loads:
        head, priority = _head(load), 2 + (load != loads[0])
        columns += [
            Column(f"latency:{load.label}", f"{head} p50", "ms", priority, "lower", 0),
            Column(f"throughput:{load.label}", head, "tok/s", priority, "higher", 0),
            Column(f"ttft:{load.label}", f"{head} TTFT", "ms", 7, "lower", 1),
            Column(f"tpot:{load.label}", f"{head} TPOT", "ms", 7, "lower", 2),
        ]
    if loads:
        columns.append(Column("speedup", "speed-up", "×", 1, "higher", 2))
        columns.append(Column("weights", "weights", "MB", 1, "lower", 0))
        columns.append(Column("kv", "KV/token", "kB", 5, "lower"))
        columns.append(Column("peak", "peak RSS", "MB", 6, "lower", 0))
    columns.append(Column("disk", "disk", "MB", 3, "lower", 0))
    columns.append(Column("parameters", "params", "M", 6, "lower"))
    columns.append(Column("compression", "smaller", "%", 2, "higher"))
    return columns


def _group(model: str, records: list[Record], columns: list[Column]) -> Group:
    baseline = next((record for record in records if record.layers == 0), None)
    intact = next((r.prune.intact_loss for r in records if r.prune and r.prune.loss), None)
    rows = [_row(record, baseline, intact, columns) for record in records]
    rows.sort(key=lambda row: (row.layers, -(row.values["average"].number or 0) if _has(row) else 0))
    best = {
        layers: max(
            (row for row in rows if row.layers == layers and _has(row)),
            key=lambda row: row.values["average"].number or 0,
            default=None,
        )
        for layers in {row.layers for row in rows if row.layers}
    }
    several = {layers for layers in best if sum(row.layers == layers for row in rows) > 1}
    rows = [replace(row, best=row.layers in several and row is best[row.layers]) for row in rows]
    title = model
    if baseline and baseline.prune:
        title += f" · {baseline.prune.parameters / 1e6:,.0f} M parameters · {baseline.prune.dtype}"
    if serving := next((record.serving for record in records if record.serving), None):
        result = serving.result
        title += f" · {result.engine} {result.engine_version} on {result.device}"
    return Group(title, rows)


def _has(row: Row) -> bool:
    value = row.values.get("average")
    return value is not None and value.number is not None


def average(record: Record) -> Value:
    """Mean of the primary metrics in percent over the tasks that count, with its standard error.

    The error is √(Σ sᵢ²)/k for k tasks; unknown where one task's is.
    """
    primary = [task.metrics[task.primary] for task in record.quality.values() if task.average]
    values = [metric.value for metric in primary if metric.value is not None]
    failed = any(failure.stage.startswith("score") for failure in record.failures)
    if not primary or failed or len(values) < len(primary):
        return Value()
    errors = [metric.stderr for metric in primary if metric.stderr is not None]
    known = len(errors) == len(primary)
    stderr = 100 * math.hypot(*errors) / len(errors) if known else None
    return Value(100 * sum(values) / len(values), stderr)


def _row(
    record: Record, baseline: Record | None, intact_loss: float | None, columns: list[Column]
) -> Row:
    values: dict[str, Value] = {
        "label": Value(text=record.label),
        "layers": Value(record.layers),
        "block": Value(),
    }
    if record.prune and record.prune.blocks:
        values["block"] = Value(
            text=" ".join("[{}, {})".format(*block) for block in record.prune.blocks)
        )
    if record.prune:
        values["loss"] = Value(record.prune.loss[1] if record.prune.loss else None)
    if record is baseline:
        values["loss"] = Value(intact_loss)
    _quality(record, baseline, values)
    _serving(record, baseline, values)
    _size(record, baseline, values)
    failure = "; ".join(f"{f.stage}: {f.error.splitlines()[0]}" for f in record.failures) or None
    warning = record.prune.warning if record.prune else None
    filled = {column.key: values.get(column.key, Value()) for column in columns}
    return Row(filled, record.layers, failure=failure, warning=warning)


def _quality(record: Record, baseline: Record | None, values: dict[str, Value]) -> None:
    values["average"] = average(record)
    whole = average(baseline).number if baseline else None
    values["rp"] = Value(_ratio(values["average"].number, whole, 100))
    for name, task in record.quality.items():
        metric = task.metrics[task.primary]
        values[f"task:{name}"] = Value(_scaled(metric.value, 100), _scaled(metric.stderr, 100))
        if perplexity := task.metrics.get("perplexity"):
            values[f"ppl:{name}"] = Value(perplexity.value)


def _serving(record: Record, baseline: Record | None, values: dict[str, Value]) -> None:
    if record.serving is None:
        return
    result = record.serving.result
    for load in result.workloads:
        label = load.workload.label
        values[f"latency:{label}"] = Value(1e3 * load.latency_seconds.p50)
        values[f"throughput:{label}"] = Value(load.output_tokens_per_second)
        values[f"ttft:{label}"] = Value(1e3 * load.ttft_seconds.p50)
        values[f"tpot:{label}"] = Value(1e3 * load.tpot_seconds.p50)
    scaled: list[tuple[str, float | None, float]] = [
        ("weights", result.memory.weights_bytes, 1e6),
        ("kv", result.memory.kv_bytes_per_token, 1e3),
        ("peak", result.memory.peak_process_memory_bytes, 1e6),
    ]
    for key, number, unit in scaled:
        values[key] = Value(_scaled(number, 1 / unit))
    values["speedup"] = Value(_speedup(record, baseline))


def _speedup(record: Record, baseline: Record | None) -> float | None:
    """Geometric mean over the workloads of baseline latency / latency, on the same device only."""
    if baseline is None or baseline.serving is None or record.serving is None:
        return None
    ours, theirs = record.serving.result, baseline.serving.result
    same = (ours.engine, ours.engine_version, ours.device) == (
        theirs.engine,
        theirs.engine_version,
        theirs.device,
    )
    before = {load.workload: load.latency_seconds.p50 for load in theirs.workloads}
    ratios = [
        before[load.workload] / load.latency_seconds.p50
        for load in ours.workloads
        if load.workload in before
    ]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if same and ratios else None


def _size(record: Record, baseline: Record | None, values: dict[str, Value]) -> None:
    if record.prune is None:
        return
    values["disk"] = Value(record.prune.checkpoint_bytes / 1e6)
    values["parameters"] = Value(record.prune.parameters / 1e6)
    if baseline and baseline.prune:
        kept = record.prune.parameters / baseline.prune.parameters
        values["compression"] = Value(100 * (1 - kept))


def _scaled(number: float | None, factor: float) -> float | None:
    return None if number is None else number * factor


def _ratio(part: float | None, whole: float | None, scale: float) -> float | None:
    return scale * part / whole if part is not None and whole else None


def _notes(records: list[Record], older: int) -> list[str]:
    tasks: dict[str, str] = _tasks(records)
    counted = {n for record in records for n, task in record.quality.items() if task.average}
    notes = []
    if tasks:
        named = ", ".join(f"{name} ({metric})" for name, metric in tasks.items() if name in counted)
        notes.append(
            f"avg: mean of {named}, ± one standard error; RP: avg relative to the baseline's; "
            f"★: best avg of its cut."
        )
    if any(record.prune and record.prune.loss for record in records):
        notes.append("loss: nats per token of calibration text that was held back from the fit.")
    if loads := _workloads(records):
        load = loads[-1]
        notes.append(
            f"{_head(load)}: batches of {load.batch_size} prompts of {load.input_len} tokens with "
            f"{load.output_len} generated tokens each; p50: median time of a batch, end to end; "
            f"speed-up: geometric mean over the workloads. Measured once per shape, for all solvers."
        )
    notes += [
        f"! {record.label} at {record.layers}: {record.prune.warning}."
        for record in records
        if record.prune and record.prune.warning
    ]
    if older:
        notes.append(f"{older} older records of the same cells are not shown.")
    return notes
