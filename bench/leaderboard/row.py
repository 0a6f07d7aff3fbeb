"""One record → one row of the leaderboard."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.leaderboard import generation
from bench.leaderboard.averages import average, relative
from bench.leaderboard.changed import Compared, list_values
from bench.leaderboard.table import Column, Row, Value
from bench.records import Record

LONGEST_REASON = 600  # characters of an error that a table shows; the record has all of it


@dataclass(frozen=True)
class Context:
    """What a row of one model is relative to.

    ``tasks``: those that count in the average of the model's cells. ``compared``: those of which it is
    known what changed.
    """

    baseline: Record | None
    intact_loss: float | None
    tasks: set[str]
    compared: Compared


def make_row(record: Record, context: Context, columns: list[Column]) -> Row:
    values = {
        "model": Value(text=record.model),
        "label": Value(text=record.label),
        "layers": Value(record.layers),
        "training_free": Value(text=_training_free(record)),
        "average": comparable_average(record, context),
    }
    units = {column.key: column.unit for column in columns}
    _quality(record, context, units, values)
    values |= list_values(record, context.compared)
    _pruning(record, context, values)
    _serving(record, context.baseline, values)
    filled = {column.key: values.get(column.key, Value()) for column in columns}
    return Row(filled, record.layers, failure=_failure(record), warning=record.warning)


def _training_free(record: Record) -> str | None:
    """Whether nothing was trained; ``None`` of the intact model."""
    return None if not record.layers else "no" if record.identity.heal else "yes"


def comparable_average(record: Record, context: Context) -> Value:
    """The average, unknown where a task is missing that counts for the model's other cells."""
    return Value() if context.tasks - set(record.scores) else average(record, context.tasks)


def place(record: Record) -> str:
    """Engine and device of a record's latencies; empty where there are none."""
    if record.serving is None:
        return ""
    result = record.serving.result
    return f"{result.engine} {result.engine_version} on {result.device}"


def _failure(record: Record) -> str | None:
    reasons = [f"{f.stage}: {next(iter(f.error.splitlines()), '')}" for f in record.failures]
    text = "; ".join(reasons)
    return (text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} …") or None


def _quality(record: Record, context: Context, units: dict[str, str], values: dict[str, Value]) -> None:
    baseline = context.baseline
    whole = comparable_average(baseline, context).number if baseline else None
    values["rp"] = Value(relative(values["average"].number, whole))
    for name, task in record.scores.items():
        if metric := task.metrics.get(task.primary):
            scale = 100 if units.get(f"task:{name}") == "%" else 1
            values[f"task:{name}"] = Value(_scaled(metric.value, scale), _scaled(metric.stderr, scale))
        if perplexity := task.metrics.get("perplexity"):
            values[f"ppl:{name}"] = Value(perplexity.value)
    values |= generation.list_values(record)


def _pruning(record: Record, context: Context, values: dict[str, Value]) -> None:
    prune, baseline = record.prune, context.baseline
    if record is baseline:
        values["loss"] = Value(context.intact_loss)
    if prune is None:
        return
    if prune.blocks:
        values["block"] = Value(text=" ".join("[{}, {})".format(*block) for block in prune.blocks))
    if record is not baseline:
        values["loss"] = Value(record.loss)
    if record.heal:
        values["trained_tokens"] = Value(record.heal.tokens / 1e3)
        values["trained_seconds"] = Value(record.heal.seconds)
    values["disk"] = Value(prune.checkpoint_bytes / 1e6)
    values["parameters"] = Value(prune.parameters / 1e6)
    if baseline and baseline.prune:
        kept = relative(prune.parameters, baseline.prune.parameters)
        values["compression"] = Value(None if kept is None else 100 - kept)


def _serving(record: Record, baseline: Record | None, values: dict[str, Value]) -> None:
    if record.serving is None:
        return
    result = record.serving.result
    for load in result.workloads:
        times = {
            "latency": 1e3 * load.latency_seconds.p50,
            "throughput": load.output_tokens_per_second,
            "ttft": 1e3 * load.ttft_seconds.p50,
            "tpot": 1e3 * load.tpot_seconds.p50,
        }
        noisy = load.workload in record.serving.noise
        label = load.workload.label
        values |= {f"{kind}:{label}": Value(time, noisy=noisy) for kind, time in times.items()}
    memory = result.memory
    values["weights"] = Value(_scaled(memory.weights_bytes, 1e-6))
    values["kv"] = Value(_scaled(memory.kv_bytes_per_token, 1e-3))
    values["peak"] = Value(_scaled(memory.peak_process_memory_bytes, 1e-6))
    values["speedup"] = _speedup(record, baseline)


def _speedup(record: Record, baseline: Record | None) -> Value:
    """Geometric mean over the workloads of baseline latency / latency, in the same place only; unknown
    where one of these latencies is noisy."""
    if baseline is None or baseline.serving is None or record.serving is None:
        return Value()
    if place(record) != place(baseline):
        return Value()
    before = {x.workload: x.latency_seconds.p50 for x in baseline.serving.result.workloads}
    now = {x.workload: x.latency_seconds.p50 for x in record.serving.result.workloads}
    shared = before.keys() & now.keys()
    pairs = [(before[load], now[load]) for load in shared]
    noise = record.serving.noise | baseline.serving.noise
    if shared & noise.keys():
        return Value(noisy=True)
    if not pairs or min(map(min, pairs)) <= 0:
        return Value()
    return Value(math.exp(sum(math.log(old / new) for old, new in pairs) / len(pairs)))


def _scaled(number: float | None, factor: float) -> float | None:
    return None if number is None else number * factor
