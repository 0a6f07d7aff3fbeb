"""Everything a record knows about its cell, as titled sections of facts and small tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import repeat
from bench.names import make_distinct
from bench.page import changed
from bench.records import Group, Prune, Record, Task
from bench.results import Key, latest
from bench.serving import ServingResult, WorkloadResult
from bench.serving.result import Distribution
from replaceme.recipe import PruneStep, SolverSettings
from replaceme.selectors import SELECTORS

Facts = list[tuple[str, str]]
DEEPEST = 20


@dataclass(frozen=True)
class DrawerSection:
    title: str
    facts: Facts = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    folded: bool = False


@dataclass(frozen=True)
class Drawer:
    """``name`` is safe as an HTML id and as the fragment of an address."""

    name: str
    title: str
    model: str
    sections: list[DrawerSection]


def drawers(
    records: Iterable[Record], texts: Mapping[Key, list[DrawerSection]] | None = None
) -> dict[Key, Drawer]:
    """A drawer for every cell; of several records of a cell the latest counts.

    Args:
        texts: sections with what cells wrote.
    """
    found: dict[Key, Drawer] = {}
    taken: set[str] = set()
    for key, record in latest(records).items():
        words = f"{record.model} {record.layers or ''} {record.label}".lower()
        readable = re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:100]
        name = make_distinct(f"cell-{readable}", taken)
        sections = _sections(record, (texts or {}).get(key, []))
        found[key] = Drawer(name, _title(record), record.model, sections)
    return found


def _title(record: Record) -> str:
    return ", ".join([record.label, *(step.words() for step in record.identity.recipe)])


def _sections(record: Record, texts: list[DrawerSection]) -> list[DrawerSection]:
    found = [_failures(record), *_pruning(record), _healing(record), _scores(record), _changes(record)]
    found += [*_groups(record), _generation(record), *texts]
    found += _serving(record)
    found += [_environment(record), _repetition(record)]
    return [section for section in found if section]


def _failures(record: Record) -> DrawerSection | None:
    if not record.failures:
        return None
    rows = [[failure.stage, failure.error] for failure in record.failures]
    return DrawerSection("What failed", columns=["stage", "reason"], rows=rows)


def _pruning(record: Record) -> list[DrawerSection]:
    prune, step = record.prune, record.identity.prune
    if prune is None:
        return []
    facts: Facts = []
    if step:
        facts = [("removed layers", _blocks(prune.blocks)), *_choice(prune, step.selector)]
        facts += [*_solver(step.solver), *_calibration(step, prune)]
    facts += [
        (
            "saved as",
            f"{prune.dtype}, {prune.parameters:,} parameters, {_bytes(prune.checkpoint_bytes)}",
        ),
        ("peak memory", _bytes(prune.peak_memory_bytes)),
        ("peak memory on GPUs", _bytes(prune.peak_device_memory_bytes)),
    ]
    made = DrawerSection("How it was pruned" if record.layers else "The intact model", facts)
    return [made, fit] if record.layers and (fit := _fit(prune)) else [made]


def _blocks(blocks: list[tuple[int, int]] | None) -> str:
    return ", ".join(f"{start} to {end - 1}" for start, end in blocks or []) or "–"


def _choice(prune: Prune, selector: str | None) -> Facts:
    if not selector:
        return [("chosen by", "given in the suite")]
    unit = SELECTORS[selector].unit if selector in SELECTORS else "unknown unit"
    return [
        ("chosen by", f"{selector}: {_number(prune.score, 4)} ({unit})"),
        ("second choice", f"{_blocks(prune.runner_up)}: {_number(prune.runner_up_score, 4)}"),
    ]


def _solver(solver: SolverSettings) -> Facts:
    version = f", version {solver.version}" if solver.version else ""
    parameters = _listed(solver.parameters) or "none"
    return [("solver", f"{solver.name}{version}"), ("its parameters", parameters)]


def _calibration(step: PruneStep, prune: Prune) -> Facts:
    return [
        ("calibration", _listed(step.calibration.canonical())),
        ("calibrated in", step.calibration_dtype or "the checkpoint's dtype"),
        ("tokens fitted on", _number(prune.calibration_tokens, 0)),
        (
            "time",
            f"{_number(prune.solve_seconds)} s to solve, {_number(prune.calibration_seconds)} s "
            "to calibrate (shared by the model's cells)",
        ),
    ]


def _fit(prune: Prune) -> DrawerSection | None:
    measures = {
        "relative error at the end of the first block": prune.relative_error,
        "mean cosine there": prune.mean_cosine,
        "loss, nats per held-back token": prune.loss,
    }
    rows = [[name, *(_number(value, 4) for value in pair)] for name, pair in measures.items() if pair]
    facts = [
        ("loss of the intact model", _number(prune.intact_loss, 4)),
        ("held-back tokens", _number(prune.held_back_tokens, 0)),
    ]
    facts += [(f"solver's note: {key}", _text(value)) for key, value in prune.notes.items()]
    warning = [f"Warning: {prune.warning}."] if prune.warning else []
    columns = ["measure", "plain removal", "with the fit"]
    return DrawerSection("How well it fits", facts, columns if rows else [], rows, warning)


def _healing(record: Record) -> DrawerSection | None:
    """What was trained, and how it went."""
    if (heal := record.heal) is None:
        return None
    name, (before, after) = heal.judged
    loss = "cross entropy" if heal.objective == "sft" else "KL"
    facts = [
        ("objective", heal.objective),
        ("settings", _listed(heal.training)),
        ("numbers trained", f"{heal.numbers:,}"),
        ("tokens", f"{heal.tokens:,} of {_text(heal.text.get('dataset'))}"),
        ("time", f"{_number(heal.seconds)} s"),
        ("layers run once for both models", _text(heal.shared_layers)),
        (f"{name}, nats per token", f"{_number(before, 4)} → {_number(after, 4)}"),
        ("held-back tokens", f"{heal.held_back_tokens:,}"),
        ("peak memory", _bytes(heal.peak_memory_bytes)),
        ("peak memory on GPUs", _bytes(heal.peak_device_memory_bytes)),
    ]
    if heal.loss:
        both = " → ".join(_number(value, 4) for value in heal.loss)
        facts.append(("loss of all of them, nats per token", both))
    rows = [
        [
            f"{point.tokens:,}",
            _number(point.seconds),
            _number(point.learning_rate, 6),
            _number(point.trained, 4),
            _number(point.held_back, 4),
        ]
        for point in heal.curve
    ]
    columns = ["tokens", "seconds", "learning rate", f"{loss}, trained on", f"{loss}, held back"]
    warning = [f"Warning: {heal.warning}."] if heal.warning else []
    return DrawerSection("How it was healed", facts, columns, rows, warning)


def _scores(record: Record) -> DrawerSection | None:
    rows = []
    for name, task in record.scores.items():
        how = _scored(task)
        for key, metric in task.metrics.items():
            mark = f"{key} (primary)" if key == task.primary else key
            numbers = [_number(metric.value, 4), _number(metric.stderr, 4), f"{task.items:,}"]
            rows.append([name, mark, *numbers, _text(task.num_fewshot), task.version or "–", how])
    if not rows:
        return None
    columns = ["task", "metric", "value", "± std. error", "items", "few-shot", "version", "scored"]
    same = {i for i in range(4, len(columns)) if len({row[i] for row in rows}) == 1 < len(rows)}
    return DrawerSection(
        "Scores",
        [(f"{columns[i]}, all tasks", rows[0][i]) for i in same],
        [name for i, name in enumerate(columns) if i not in same],
        [[item for i, item in enumerate(row) if i not in same] for row in rows],
    )


def _scored(task: Task | Group) -> str:
    """How a score came about."""
    if isinstance(task, Group):
        return f"of {len(task.tasks)} tasks"
    how = task.method + (f", {task.dtype}" if task.dtype else "")
    return how + (f" ({task.reason})" if task.reason else "")


def _changes(record: Record) -> DrawerSection | None:
    """How the answers differ from the intact model's."""
    rows, text = changed.list_rows(record), changed.state_text(record)
    if not record.layers or not (rows or text):
        return None
    columns = changed.COLUMNS if rows else []
    return DrawerSection("What changed", columns=columns, rows=rows, texts=[text] if text else [])


def _generation(record: Record) -> DrawerSection | None:
    """What the texts are like, and what wrote them."""
    rows = []
    for name, task in record.quality.items():
        if (made := task.generation) is None:
            continue
        shares = [made.cut_off, made.distinct_4grams]
        cut_off, distinct = ("–" if share is None else f"{100 * share:.1f} %" for share in shares)
        engine = f"{made.engine} {made.engine_version or ''}".strip()
        how = engine + (f" ({made.reason})" if made.reason else "")
        numbers = [cut_off, _number(made.mean_tokens), distinct, _text(made.truncated)]
        rows.append([name, f"{made.texts:,}", *numbers, how])
    columns = [
        "task",
        "texts",
        "cut off",
        "mean tokens",
        "distinct 4-grams",
        "prompts cut",
        "written by",
    ]
    return DrawerSection("Texts", columns=columns, rows=rows) if rows else None


def _groups(record: Record) -> list[DrawerSection]:
    """What is in each group that has a column."""
    columns = ["task", "metric", "value", "± std. error", "items", "few-shot"]
    return [
        DrawerSection(
            f"Tasks of {name}",
            columns=columns,
            rows=[*_members(record, group, group.primary, 0)],
            folded=True,
        )
        for name, group in record.scores.items()
        if isinstance(group, Group)
    ]


def _members(record: Record, group: Group, metric: str, depth: int) -> Iterator[list[str]]:
    """The tasks and groups in a group, those deeper inside behind a mark."""
    for name in group.members:
        part = record.groups.get(name) or record.quality.get(name)
        found = part.metrics.get(metric) if part else None
        if part is None or depth > DEEPEST:
            continue
        value, stderr = (found.value, found.stderr) if found else (None, None)
        numbers = [_number(value, 4), _number(stderr, 4), f"{part.items:,}", _text(part.num_fewshot)]
        yield ["› " * depth + name, metric, *numbers]
        if isinstance(part, Group):
            yield from _members(record, part, metric, depth + 1)


def _serving(record: Record) -> list[DrawerSection]:
    if record.serving is None:
        return []
    result = record.serving.result
    facts = [
        ("engine", f"{result.engine} {result.engine_version}"),
        ("device", result.device),
        ("dtype", result.dtype),
        ("threads", _text(result.threads)),
        ("engine processes", str(len(record.serving.processes))),
        ("measured on", record.serving.measured_on),
    ]
    columns = ["load", "measure", "median", "p90", "p99", "lowest", "highest", "values"]
    rows = [row for load in result.workloads for row in _load(load)]
    rates = [
        f"{load.workload.label}: {load.output_tokens_per_second:,.1f} generated tokens/s, "
        f"{load.requests_per_second:,.2f} requests/s; seconds of each run: "
        f"{', '.join(f'{value:.3f}' for value in load.latency_seconds.values)}."
        for load in result.workloads
    ]
    noise = [f"Noisy: {load.label}: {why}." for load, why in record.serving.noise.items()]
    return [
        DrawerSection("Serving", [*facts, *_neighbours(result)], columns, rows, [*noise, *rates]),
        DrawerSection("Memory and settings of the engine", [*_memory(result), *_settings(result)]),
    ]


def _neighbours(result: ServingResult) -> Facts:
    """What else ran in the timed runs of each load, lowest to highest."""
    facts: Facts = []
    for load in result.workloads:
        beside = load.neighbours.model_dump() if load.neighbours else {}
        for name, values in beside.items():
            if values:
                ends = " to ".join(f"{end:,.3g}" for end in dict.fromkeys([min(values), max(values)]))
                facts.append((f"{load.workload.label}, {name.replace('_', ' ')}", ends))
    return facts


def _load(load: WorkloadResult) -> list[list[str]]:
    times = {
        "latency of a batch (ms)": load.latency_seconds,
        "TTFT (ms)": load.ttft_seconds,
        "TPOT (ms)": load.tpot_seconds,
    }
    return [[load.workload.label, name, *_spread(found)] for name, found in times.items()]


def _spread(found: Distribution) -> list[str]:
    values = found.p50, found.p90, found.p99, min(found.values), max(found.values)
    return [*(f"{1e3 * value:,.2f}" for value in values), str(len(found.values))]


def _memory(result: ServingResult) -> Facts:
    memory = result.memory
    return [
        ("weights", _bytes(memory.weights_bytes)),
        ("KV cache per token", _number(memory.kv_bytes_per_token, 0, " bytes")),
        ("KV capacity", _number(memory.kv_capacity_tokens, 0, " tokens")),
        ("KV pool", _bytes(memory.kv_pool_bytes)),
        ("peak of the processes", _bytes(memory.peak_process_memory_bytes)),
        ("peak on GPUs", _bytes(memory.peak_device_memory_bytes)),
    ]


def _settings(result: ServingResult) -> Facts:
    return [(key, _text(value)) for key, value in result.engine_settings.model_dump().items()]


def _environment(record: Record) -> DrawerSection | None:
    facts: Facts = []
    for key, value in (record.environment | record.runtime).items():
        if isinstance(value, dict):
            facts += [(str(name), _text(item)) for name, item in value.items()]
        else:
            facts.append((key.replace("_", " "), _text(value)))
    if record.updated:
        facts.append(("last change", record.updated))
    return DrawerSection("Environment", facts) if facts else None


def _repetition(record: Record) -> DrawerSection:
    return DrawerSection("Repeat it", texts=repeat.remarks(record), code=repeat.commands(record))


def _number(value: float | None, digits: int = 1, unit: str = "") -> str:
    return "–" if value is None else f"{value:,.{digits}f}{unit}"


def _bytes(value: int | None) -> str:
    return _number(value / 1e6, 1, " MB") if value is not None else "–"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_text(value)}" for key, value in values.items() if value is not None)
