"""The tables of a model card: quality, latency and memory against the intact model."""

from __future__ import annotations

from collections.abc import Iterator

from bench.leaderboard.averages import average, counted, is_share, relative
from bench.leaderboard.row import place
from bench.leaderboard.table import Value
from bench.records import Group, Record, Task
from bench.render.escape import markdown
from replaceme.provenance import code

Scored = Task | Group
LM_EVAL = "https://github.com/EleutherAI/lm-evaluation-harness"


def quality(record: Record, baseline: Record | None) -> Iterator[str]:
    if not record.scores:
        return
    before = {name: _comparable(name, task, baseline) for name, task in record.scores.items()}
    lines = [
        "| task | metric | few-shot | items | intact model | this model | RP % |",
        "|---|---|---:|---:|---:|---:|---:|",
        *(_task_row(name, task, before[name]) for name, task in record.scores.items()),
    ]
    in_average = [name for name in record.scores if name in counted([record])]
    mean = average(record)
    if in_average and mean.number is not None:
        known = baseline is not None and all(before[name] for name in in_average)
        intact = average(baseline) if baseline and known else Value()
        shown = [_percent(value.number, value.stderr) for value in (intact, mean)]
        ratio = relative(mean.number, intact.number)
        lines.append(f"| **average** | | | | {shown[0]} | {shown[1]} | {_percent(ratio)} |")
    names = ", ".join(markdown(name) for name in in_average) or "nothing"
    version = record.environment.get("packages", {}).get("lm_eval")
    by = f"[lm-eval]({LM_EVAL}){f' {markdown(str(version))}' if version else ''}"
    said = (
        f"Metrics are those of {by}, in percent where they are shares of 1, ± one standard error. The "
        f"average is the mean of {names}; RP is what is left of the intact model's value."
    )
    yield "\n".join(["## Quality", "", *lines, "", said])


def _comparable(name: str, task: Scored, baseline: Record | None) -> Scored | None:
    """The intact model's score on the same items."""
    other = baseline.scores.get(name) if baseline else None
    return other if other and other.identity == task.identity else None


def _task_row(name: str, task: Scored, intact: Scored | None) -> str:
    metric, before = task.metrics.get(task.primary), None
    if intact:
        before = intact.metrics.get(task.primary)
    scale = 100 if is_share(task) else 1
    values = [_scaled(m.value if m else None, m.stderr if m else None, scale) for m in (before, metric)]
    higher = metric is not None and metric.higher_is_better is not False
    ratio = relative(metric.value, before.value) if metric and before and higher else None
    shots = "–" if task.num_fewshot is None else task.num_fewshot
    return (
        f"| {markdown(name)} | {markdown(task.primary)} | {shots} | {task.items:,} | "
        f"{values[0]} | {values[1]} | {_percent(ratio)} |"
    )


def _scaled(value: float | None, stderr: float | None, scale: float) -> str:
    return _percent(None if value is None else value * scale, None if stderr is None else stderr * scale)


def _percent(value: float | None, stderr: float | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if stderr is None else f"{value:.1f} ± {stderr:.1f}"


def serving(record: Record, baseline: Record | None) -> Iterator[str]:
    if record.serving is None:
        return
    result = record.serving.result
    other = baseline.serving if baseline and place(baseline) == place(record) else None
    before = other.result if other else None
    intact = {load.workload: load.latency_seconds.p50 for load in before.workloads} if before else {}
    noise = record.serving.noise | (other.noise if other else {})
    lines = ["| | intact model | this model | ratio |", "|---|---:|---:|---:|"]
    for load in result.workloads:
        work = load.workload
        name = f"{work.batch_size} × {work.input_len} → {work.output_len} tokens: p50 latency, ms"
        was, now = intact.get(work), load.latency_seconds.p50
        lines.append(_compared(name, was and 1e3 * was, 1e3 * now, noisy=work in noise))
    sizes = {
        "weights in the engine, MB": ("weights_bytes", 1e-6),
        "KV cache per token, kB": ("kv_bytes_per_token", 1e-3),
    }
    for name, (key, scale) in sizes.items():
        was, now = getattr(before.memory, key) if before else None, getattr(result.memory, key)
        lines.append(_compared(name, was and was * scale, now and now * scale))
    processes = len(record.serving.processes)
    engines = f"{processes} engine process{'es' if processes > 1 else ''}"
    said = (
        f"{markdown(place(record))}, weights in {markdown(result.dtype)}; prefix caching off, fresh "
        f"prompts, greedy, {engines}. A latency is the median time of one batch from its submission to "
        f"its last token. Latency and memory depend on the shape of a model alone, and were measured on "
        f"{code(record.serving.measured_on)}."
    )
    if noise:
        said += f" A question mark: something disturbed it ({'; '.join(dict.fromkeys(noise.values()))})."
    yield "\n".join(["## Latency and memory", "", *lines, "", said])


def _compared(name: str, before: float | None, now: float | None, noisy: bool = False) -> str:
    ratio = f"{now / before:.2f}" if before and now is not None and not noisy else "–"
    mark = "?" * noisy
    shown = ["–" if value is None else f"{value:,.1f}{mark}" for value in (before, now)]
    return f"| {name} | {shown[0]} | {shown[1]} | {ratio} |"


def describe_limit(limit: float) -> str:
    """How many items of a task were asked, or which share of them."""
    return f"{limit:,} items" if limit >= 1 else f"{100 * limit:g} % of the items"
