"""Records → one table model, which every renderer shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from bench.leaderboard import changed, generation
from bench.leaderboard.averages import average, counted, is_share
from bench.leaderboard.noise import describe_noise
from bench.leaderboard.row import Context, make_row, place
from bench.leaderboard.table import Column, Group, Row, Table, TaskInfo, Value, show
from bench.names import short_task_name
from bench.records import Group as PlannedGroup
from bench.records import Record, Task
from bench.results import latest
from bench.serving import Workload

__all__ = ["Column", "Group", "Row", "Table", "Value", "average", "build", "build_all", "latest", "show"]

MODEL = Column("model", "model", "", 0)
TRAINING_FREE = Column("training_free", "training-free", "", 0)
TRAINED = (
    Column(
        "trained_tokens", "trained on", "k tokens", 5, "lower", note="trained on: tokens, repeats too."
    ),
    Column("trained_seconds", "trained for", "s", 5, "lower", 0),
)
EMPTY = Table([], [], [])


def build(records: Iterable[Record]) -> Table:
    """The leaderboard of some records: grouped by model, baseline first, then by layers removed."""
    return build_all({"": records})


def build_all(folders: Mapping[str, Iterable[Record]], together: bool = False) -> Table:
    """The leaderboard of several result folders with the same columns, each folder in groups of its own.

    Of several records of one cell in a folder (an older calibration, say) the latest counts. Rows whose
    latencies come from different engines or devices are in different groups, too. What was trained after
    pruning is ranked by itself, unless all is to be ranked ``together``.
    """
    given = {name: list(records) for name, records in folders.items()}
    cells = {name: list(latest(records).values()) for name, records in given.items()}
    shown = [record for records in cells.values() for record in records]
    older = sum(map(len, given.values())) - len(shown)
    columns = _columns(shown)
    spare = [MODEL, TRAINING_FREE, *changed.list_columns(shown)[1], *generation.list_columns(shown)]
    spare = [column for column in spare if column not in columns]
    groups = []
    for folder, records in cells.items():
        for model in dict.fromkeys(record.model for record in records):
            found = [record for record in records if record.model == model]
            named = folder if len(cells) > 1 else ""
            groups += _groups(found, columns + spare, named, together)
    return Table(
        columns,
        groups,
        _remarks(shown, older),
        _tasks(shown),
        spare,
        apart=not together and any(record.heal for record in shown),
        noise=describe_noise(shown),
    )


def _tasks(records: list[Record]) -> list[TaskInfo]:
    """How the tasks were scored, in the order of the suite; a task scored in two ways stands twice."""
    in_average = counted(records)
    return list(
        dict.fromkeys(
            TaskInfo(
                name,
                task.primary,
                task.num_fewshot,
                task.version,
                task.items,
                name in in_average,
                _prompt(task),
            )
            for record in records
            for name, task in record.scores.items()
        )
    )


def _prompt(task: Task | PlannedGroup) -> str | None:
    """Chat template and instruction of a task in words; ``None`` where there is neither."""
    if (prompt := task.identity.prompt) is None:
        return None
    template, instruction = prompt.get("apply_chat_template"), prompt.get("system_instruction")
    words = []
    if template:
        named = f" {template!r}" if isinstance(template, str) else ""
        turns = "turns" if prompt.get("fewshot_as_multiturn") else "one turn"
        words = [f"chat template{named}", *([f"examples as {turns}"] if task.num_fewshot else [])]
    if instruction:
        words.append(f"system instruction {instruction!r}")
    return ", ".join(words) or None


def _workloads(records: list[Record]) -> list[Workload]:
    """The workloads measured, in the order of the suite."""
    measured = [record.serving.result.workloads for record in records if record.serving]
    return list(dict.fromkeys(load.workload for loads in measured for load in loads))


def _columns(records: list[Record]) -> list[Column]:
    columns = [Column("label", "variant", "", 0), Column("layers", "cut", "", 0, digits=0)]
    columns.append(Column("block", "layers out", "", 6))
    if any(record.heal for record in records):
        columns += [TRAINING_FREE, *TRAINED]
    if any(record.scores for record in records):
        tasks = _tasks(records)
        columns.append(Column("average", "avg", "%", 0, "higher", note=_average_note(tasks)))
        columns.append(Column("rp", "RP", "%", 0, "higher", note=RP))
    columns += changed.list_columns(records)[0]
    if any(record.prune and record.prune.loss for record in records):
        columns.append(Column("loss", "loss", "nats", 3, "lower", 3, LOSS))
    return [*columns, *_task_columns(records), *_serving_columns(_workloads(records)), *SIZES]


RP = "RP: avg relative to the baseline's."
LOSS = "loss: nats per token of calibration text that was held back from the fit."
SIZES = (
    Column("disk", "disk", "MB", 3, "lower", 0),
    Column("parameters", "params", "M", 6, "lower"),
    Column("compression", "smaller", "%", 2, "higher"),
)


def _task_columns(records: list[Record]) -> list[Column]:
    tasks = {name: task for record in records for name, task in record.scores.items()}
    scores, perplexities, note = [], [], task_note(_tasks(records))
    others = {n for record in records for n, task in record.scores.items() if not is_share(task)}
    for name, task in tasks.items():
        header = f"{short_task_name(name)} {task.primary}"
        if name in others:
            digits = 1 if "perplexity" in task.primary else 3
            scores.append(Column(f"task:{name}", header, "", 4, _better(task), digits, note))
        else:
            scores.append(Column(f"task:{name}", header, "%", 4, "higher", note=note))
        if task.primary != "perplexity" and any(_has_perplexity(record, name) for record in records):
            perplexities.append(Column(f"ppl:{name}", f"{short_task_name(name)} ppl", "", 5, "lower"))
    return scores + perplexities


def _better(task: Task | PlannedGroup) -> str | None:
    higher = task.metrics[task.primary].higher_is_better
    if higher is None and "perplexity" in task.primary:
        higher = False
    return None if higher is None else "higher" if higher else "lower"


def _has_perplexity(record: Record, task: str) -> bool:
    return task in record.scores and "perplexity" in record.scores[task].metrics


def _serving_columns(loads: list[Workload]) -> list[Column]:
    columns = []
    for load in loads:
        head, priority = load.header, 2 + (load != loads[0])
        columns += [
            Column(
                f"latency:{load.label}", f"{head} p50", "ms", priority, "lower", 0, _load_note(loads)
            ),
            Column(f"throughput:{load.label}", head, "tok/s", priority, "higher", 0),
            Column(f"ttft:{load.label}", f"{head} TTFT", "ms", 7, "lower", 1),
            Column(f"tpot:{load.label}", f"{head} TPOT", "ms", 7, "lower", 2),
        ]
    if loads:
        columns.append(Column("speedup", "speed-up", "×", 1, "higher", 2, SPEEDUP))
        columns.append(Column("weights", "weights", "MB", 1, "lower", 0))
        columns.append(Column("kv", "KV/token", "kB", 5, "lower"))
        columns.append(Column("peak", "peak RSS", "MB", 6, "lower", 0))
    return columns


def _groups(records: list[Record], columns: list[Column], folder: str, together: bool) -> list[Group]:
    """The rows of one model in one folder, a group for each place that its latencies come from."""
    baseline = next((record for record in records if record.layers == 0), None)
    intact = next((r.prune.intact_loss for r in records if r.prune and r.prune.loss), None)
    context = Context(baseline, intact, counted(records), changed.Compared.of(records))
    places = list(dict.fromkeys(filter(None, map(place, records)))) or [""]
    groups = []
    for where in places:
        served_here = [r for r in records if (place(r) or places[0]) == where]
        rows = [make_row(record, context, columns) for record in served_here]
        title = " · ".join([served_here[0].model, *_described(baseline)])
        ranked = marked(sorted(rows, key=_rank), columns, together)
        groups.append(Group(title, ranked, where, folder))
    return groups


def _described(baseline: Record | None) -> list[str]:
    if baseline is None or baseline.prune is None:
        return []
    return [f"{baseline.prune.parameters / 1e6:,.0f} M parameters", baseline.prune.dtype]


def _rank(row: Row) -> tuple[int, float]:
    value = row.values.get("average", Value()).number
    return row.layers or 0, 0 if value is None else -value


def marked(rows: list[Row], columns: list[Column], together: bool) -> list[Row]:
    """The rows with the best of each cut marked: the row of the best average, and the values of columns.

    Only where there is a choice; equal values are all best, but not where all are equal. The baseline
    is never best.

    Args:
        together: rank what was trained after pruning together with what was not.
    """
    best: set[tuple[int, str]] = set()
    leaders = set()
    rankings: dict[tuple[int, str | None], list[tuple[int, Row]]] = {}
    for i, row in enumerate(rows):
        if row.layers:
            kind = None if together else row.values[TRAINING_FREE.key].text
            rankings.setdefault((row.layers, kind), []).append((i, row))
    for here in rankings.values():
        for column in columns:
            known = {i: row.values[column.key].ranked for i, row in here}
            numbers = [number for number in known.values() if number is not None]
            if column.better is None or len(here) < 2 or not numbers:
                continue
            top = max(numbers) if column.better == "higher" else min(numbers)
            winners = [i for i, number in known.items() if number == top]
            if column.key == "average":
                leaders.add(winners[0])
            if len(set(numbers)) > 1:
                best |= {(i, column.key) for i in winners}
    return [
        replace(
            row,
            best=i in leaders,
            values={k: replace(v, best=(i, k) in best) for k, v in row.values.items()},
        )
        for i, row in enumerate(rows)
    ]


def _remarks(records: list[Record], older: int) -> list[str]:
    several = len({record.model for record in records}) > 1
    remarks = [
        f"! {f'{record.model}, ' if several else ''}{record.label} at {record.layers}: {record.warning}."
        for record in records
        if record.warning
    ]
    if older:
        remarks.append(f"{older} older records of the same cells are not shown.")
    return remarks


def _average_note(tasks: list[TaskInfo]) -> str:
    names = dict.fromkeys(f"{task.name} ({task.metric})" for task in tasks if task.average)
    if not names:
        return "avg: unknown, since no task that counts has a share of 1 as its primary metric."
    return f"avg: mean of {', '.join(names)}, ± one standard error."


SPEEDUP = "speed-up: geometric mean over the workloads. Measured once per shape, for all solvers."


def _load_note(loads: list[Workload]) -> str:
    load = loads[-1]
    return (
        f"{load.header}: batches of {load.batch_size} prompts of {load.input_len} tokens with "
        f"{load.output_len} generated tokens each; p50: median time of a batch, end to end."
    )


def task_note(tasks: list[TaskInfo]) -> str:
    """Few-shot counts, items and versions of the tasks in one sentence; those scored alike together."""
    alike: dict[str, list[str]] = {}
    for task in tasks:
        shots = "few-shot not stated" if task.num_fewshot is None else f"{task.num_fewshot}-shot"
        items = f"{task.items:,} items" if task.items is not None else ""
        version = f"task version {task.version}" if task.version else ""
        how = ", ".join(filter(None, [shots, task.prompt, items, version]))
        extra = "" if task.average else " (not in avg)"
        metric = f" {task.metric}" if task.metric else ""
        alike.setdefault(how, []).append(f"{task.name}{metric}{extra}")
    parts = [f"{how}: {', '.join(names)}" for how, names in alike.items()]
    return f"tasks: {'; '.join(parts)}."
