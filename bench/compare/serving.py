"""Comparison of serving measurements and of sizes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.compare import significance
from bench.compare.comparison import Change, Marker, Options, Verdict
from bench.records import Record, Serving
from bench.results import Key
from bench.serving import Workload
from replaceme.recipe import digest

SAMPLE_SIZE = ("processes",)  # settings that say how often was measured, not what
Pair = tuple[Record, Record]


def latencies(pairs: dict[Key, Pair], options: Options) -> list[Verdict]:
    """Verdicts on the latencies of cells that were served on both sides.

    The median of each engine process is one observation. A measurement that several cells share is
    judged once, for the first. A noisy one is not comparable. A regression lies beyond the tolerance
    with its whole interval, and with the probability of Holm over all latencies.
    """
    drafts: list[tuple[Verdict, significance.Ratio | None]] = []
    for keys in _shared(pairs):
        base, new = (record.serving for record in pairs[keys[0]])
        assert base is not None
        assert new is not None
        notes = (f"measured once for {len(keys)} cells",) if len(keys) > 1 else ()
        for draft, ratio in _drafts(keys[0], base, new, options):
            drafts.append((replace(draft, notes=notes), ratio))
    tested = [ratio.beyond for _, ratio in drafts if ratio and ratio.beyond]
    slower = iter(significance.holm([p.worse for p in tested]))
    faster = iter(significance.holm([p.better for p in tested]))
    return [
        _judged(draft, ratio, next(slower), next(faster), options) if ratio and ratio.beyond else draft
        for draft, ratio in drafts
    ]


def _shared(pairs: dict[Key, Pair]) -> list[list[Key]]:
    """The cells that were served on both sides, those of one measurement together."""
    groups: dict[str, list[Key]] = {}
    for key, records in pairs.items():
        served = [record.serving for record in records]
        if all(served):
            what = [s.model_dump(mode="json", include={"identity", "measured_on"}) for s in served if s]
            groups.setdefault(digest({"pair": what, "model": key[0]}), []).append(key)
    return list(groups.values())


def _drafts(
    key: Key, base: Serving, new: Serving, options: Options
) -> list[tuple[Verdict, significance.Ratio | None]]:
    if obstacle := _obstacle(base, new):
        return [(Verdict(key, "latency", "", Marker.INCOMPARABLE, reason=obstacle), None)]
    drafts: list[tuple[Verdict, significance.Ratio | None]] = []
    before, after = (_medians(serving) for serving in (base, new))
    for load in before:
        draft = Verdict(key, "latency", load.label, Marker.SAME, metric="p50", unit="ms")
        ratio = significance.ratio_of_times(before[load], after[load], options.latency_tolerance)
        filled = _filled(draft, before[load], after[load], ratio)
        if noise := _describe_noise(load, base, new):
            noisy = replace(filled, marker=Marker.INCOMPARABLE, reason=noise, change=None, test=None)
            drafts.append((noisy, None))
        else:
            drafts.append((filled, ratio))
    return drafts


def _describe_noise(load: Workload, base: Serving, new: Serving) -> str | None:
    """What disturbed a measurement on either side; ``None`` where nothing did."""
    sides = {"base": base.noise.get(load), "new": new.noise.get(load)}
    told = [f"{side}: {noise}" for side, noise in sides.items() if noise]
    return f"noisy, {', '.join(told)}" if told else None


def _filled(
    draft: Verdict, base: Sequence[float], new: Sequence[float], ratio: significance.Ratio
) -> Verdict:
    ends = (ratio.interval.low, ratio.interval.high) if ratio.interval else (None, None)
    reason = None
    if ratio.beyond is None:
        reason = f"{len(base)} and {len(new)} engine processes: at least two on each side tell a change"
    return replace(
        draft,
        base=1e3 * statistics.geometric_mean(base),
        new=1e3 * statistics.geometric_mean(new),
        change=Change(ratio.value, *ends),
        reason=reason,
        test="Welch's t of logarithms" if ratio.beyond else None,
    )


def _judged(
    draft: Verdict, ratio: significance.Ratio, slower: float, faster: float, options: Options
) -> Verdict:
    assert ratio.interval is not None
    tolerance = options.latency_tolerance
    marker = Marker.SAME
    if slower <= options.alpha and ratio.interval.low > tolerance:
        marker = Marker.WORSE
    elif faster <= options.alpha and ratio.interval.high < 1 / tolerance:
        marker = Marker.BETTER
    regression = marker is Marker.WORSE
    return replace(draft, marker=marker, regression=regression, p_worse=slower, p_better=faster)


def _medians(serving: Serving) -> dict[Workload, list[float]]:
    """Workload → median seconds of a batch in each engine process."""
    found: dict[Workload, list[float]] = {}
    for process in serving.processes:
        for load in process.workloads:
            found.setdefault(load.workload, []).append(load.latency_seconds.p50)
    return found


def _obstacle(base: Serving, new: Serving) -> str | None:
    """Why two measurements say nothing about each other."""
    before, after = (_conditions(serving) for serving in (base, new))
    differing = [name for name in before | after if before.get(name) != after.get(name)]
    if not differing:
        return None
    return "; ".join(f"{name} {before.get(name)} → {after.get(name)}" for name in differing[:3])


def _conditions(serving: Serving) -> dict[str, Any]:
    result = serving.result
    settings = {
        name: value for name, value in serving.identity.settings.items() if name not in SAMPLE_SIZE
    }
    settings["workloads"] = ", ".join(load.label for load in _medians(serving))
    facts = result.model_dump(include={"engine", "engine_version", "device", "dtype", "threads"})
    return facts | settings | result.engine_settings.model_dump()


def sizes(key: Key, base: Record, new: Record) -> list[Verdict]:
    """Quantities without chance that are not what they were."""
    before, after = _quantities(base), _quantities(new)
    return [
        Verdict(
            key,
            "quantity",
            name,
            Marker.CHANGED,
            unit=unit,
            base=before[name, unit],
            new=after[name, unit],
            change=Change(after[name, unit] - before[name, unit]),
        )
        for name, unit in before
        if before[name, unit] != after.get((name, unit), before[name, unit])
    ]


def _quantities(record: Record) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float | None] = {}
    if prune := record.prune:
        found["parameters", ""] = prune.parameters
        found["checkpoint", "bytes"] = prune.checkpoint_bytes
    if record.serving:
        memory = record.serving.result.memory
        found["weights", "bytes"] = memory.weights_bytes
        found["KV per token", "bytes"] = memory.kv_bytes_per_token
    return {name: value for name, value in found.items() if value is not None}
