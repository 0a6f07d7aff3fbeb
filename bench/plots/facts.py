"""Records → what the charts show: scored cells, and measurements that may be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.leaderboard.averages import average, counted
from bench.plots.style import BASELINE
from bench.records import Record, Serving
from bench.render.escape import visible
from bench.results import latest
from bench.serving import Workload, WorkloadResult

OF_EVERY_OBJECT = {"constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable"}
OF_EVERY_OBJECT |= {"toLocaleString", "toString", "valueOf", "__proto__", "__defineGetter__"}
OF_EVERY_OBJECT |= {"__defineSetter__", "__lookupGetter__", "__lookupSetter__"}
Z95 = 1.959964  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Scored:
    """A cell with an average, in percent; ``low`` and ``high``: its 95 % interval, where known."""

    record: Record
    average: float
    low: float | None
    high: float | None
    rp: float | None

    @property
    def name(self) -> str:
        return name_of(self.record)

    @property
    def layers(self) -> int:
        return self.record.layers


def by_model(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Model → its cells in order of cut; of several records of a cell the latest counts."""
    models: dict[str, list[Record]] = {}
    for record in sorted(latest(records).values(), key=lambda record: record.layers):
        models.setdefault(record.model, []).append(record)
    return models


def name_of(record: Record) -> str:
    """What charts call a cell's solver.

    Vega looks some names up in plain objects, where ``constructor`` or ``__proto__`` would be found
    without having been put there; a space at the end sets them apart.
    """
    label = visible(record.label) if record.layers else BASELINE
    return f"{label} " if label in OF_EVERY_OBJECT else label


def solver_names(records: Iterable[Record]) -> list[str]:
    """The names of the pruned cells, in order of first appearance."""
    return list(dict.fromkeys(name_of(record) for record in records if record.layers))


def scored(records: Sequence[Record]) -> list[Scored]:
    """The cells of one model whose average is known and is over the same tasks as the others'."""
    tasks = counted(records)
    whole = next((average(record, tasks).number for record in records if not record.layers), None)
    found = []
    for record in records:
        value = average(record, tasks)
        if value.number is None or tasks - set(record.scores):
            continue
        low, high = interval(value.number, value.stderr)
        rp = 100 * value.number / whole if whole else None
        found.append(Scored(record, value.number, low, high, rp))
    return found


def interval(percent: float, stderr: float | None) -> tuple[float | None, float | None]:
    """The 95 % interval of a share, percent ± 1.96 standard errors, within 0 to 100."""
    if stderr is None:
        return None, None
    return max(0.0, percent - Z95 * stderr), min(100.0, percent + Z95 * stderr)


def conditions(serving: Serving) -> tuple[str, str]:
    """What has to be equal for two measurements to be compared: readable, and whole."""
    result = serving.result
    settings = result.engine_settings
    readable = f"{result.engine} {result.engine_version} on {result.device}"
    whole = [readable, result.dtype, result.threads, settings.model_dump(mode="json")]
    return readable, json.dumps(whole, sort_keys=True)


def comparable(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Engine and device → the served cells of one model that were measured alike."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.serving:
            groups.setdefault(conditions(record.serving), []).append(record)
    named: dict[str, list[Record]] = {}
    for readable, whole in groups:
        name, number = readable, 1
        while name in named:
            number += 1
            name = f"{readable}, settings {number}"
        named[name] = groups[readable, whole]
    return named


def workloads(records: Iterable[Record]) -> list[Workload]:
    """The loads that were measured, in the order of the suite."""
    loads = (record.serving.result.workloads for record in records if record.serving)
    return list(dict.fromkeys(load.workload for found in loads for load in found))


def load_name(load: Workload) -> str:
    prompts = "1 prompt" if load.batch_size == 1 else f"{load.batch_size} prompts"
    return f"{prompts} of {load.input_len} tokens, {load.output_len} generated"


def measured(record: Record, load: Workload) -> WorkloadResult | None:
    """All timed runs of a cell under one load."""
    return _under(record.serving.result.workloads, load) if record.serving else None


def spread(serving: Serving, load: Workload) -> tuple[float, float]:
    """Lowest and highest latency in seconds: of the processes' medians, or of one's timed runs."""
    found = [run for result in serving.processes if (run := _under(result.workloads, load))]
    several = len(found) > 1
    values = [run.latency_seconds.p50 for run in found] if several else found[0].latency_seconds.values
    return min(values), max(values)


def _under(results: Iterable[WorkloadResult], load: Workload) -> WorkloadResult | None:
    return next((result for result in results if result.workload == load), None)
