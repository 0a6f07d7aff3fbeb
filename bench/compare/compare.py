"""Two result sets → verdicts: cells paired, differences judged, the worst first.

Scores are tested on the same items of both sides, one-sided, with Holm's correction over all scores of
the comparison. A score regresses when it is significantly worse *and* dropped by more than allowed.
Changed answers and latencies are families of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.compare import scores as compare_scores
from bench.compare import serving as compare_serving
from bench.compare.averages import average_change
from bench.compare.comparison import Averages, Comparison, Marker, Options, Verdict
from bench.compare.flips import compare_flips
from bench.compare.items import IncomparableError, Side, scale
from bench.compare.scores import Score
from bench.names import cell_name
from bench.records import Record
from bench.results import Key, Results
from replaceme.errors import InputError

ORDER = list(Marker)
KINDS = ["cell", "score", "flips", "latency", "quantity"]


def compare(base: Results, new: Results, options: Options = Options()) -> Comparison:  # noqa: B008
    """The verdict on NEW against BASE.

    Two record files are compared with each other, whatever their cells are called; one record file picks
    its cell out of a result set.

    Raises:
        InputError: nothing can be compared, or a result set lacks the baseline of a model.
    """
    keys = _keys(base, new)
    if not (base.single or new.single):
        for side in (base, new):
            _check_baselines(side)
    pairs = {
        after or before: (
            Side.of(base, before) if before else None,
            Side.of(new, after) if after else None,
        )
        for before, after in keys
    }
    verdicts: list[Verdict] = []
    scores: list[Score] = []
    both: dict[Key, tuple[Side, Side]] = {}
    for key, (old, fresh) in pairs.items():
        assert key is not None
        if old is None or fresh is None:
            verdicts.append(_alone(key, old, options))
            continue
        both[key] = (old, fresh)
        for found in _scores(key, old, fresh, options):
            if isinstance(found, Score):
                scores.append(found)
            else:
                verdicts.append(found)
        verdicts += _serving(key, old.record, fresh.record, options)
        verdicts += compare_serving.sizes(key, old.record, fresh.record)
    records = {key: (old.record, fresh.record) for key, (old, fresh) in both.items()}
    times = compare_serving.latencies(records, options)
    _check_comparable(base, new, [*verdicts, *times], scores)
    verdicts += compare_scores.judge(scores, options) + compare_flips(both, options) + times
    return Comparison(
        base.source,
        new.source,
        options,
        len(scores),
        sorted(verdicts, key=_rank),
        list(_averages(both)),
        {cell_name(*key): made for key, pair in records.items() if (made := _changes(*pair))},
    )


def _keys(base: Results, new: Results) -> list[tuple[Key | None, Key | None]]:
    """What is paired, in the order of BASE, then what only NEW has."""
    if base.single and new.single:
        return [(*base.cells, *new.cells)]  # type: ignore[list-item]
    keys = list(dict.fromkeys([*base.cells, *new.cells]))
    for side in (base, new):
        if side.single:
            keys = [key for key in keys if key in side.cells]
    return [(key if key in base.cells else None, key if key in new.cells else None) for key in keys]


def _check_baselines(side: Results) -> None:
    intact = {model for model, layers, _ in side.cells if not layers}
    for model, *_ in side.cells:
        if model not in intact:
            raise InputError(
                f"{side.source} has no baseline of {model}, so it cannot say what pruning costs; run "
                f"the suite with --only '{model}/baseline'."
            )


def _check_comparable(base: Results, new: Results, verdicts: list[Verdict], scores: list[Score]) -> None:
    """Refuse to call it no regression where nothing was tested, or no score although there are some."""
    lost = any(verdict.marker in (Marker.FAILING, Marker.GONE) for verdict in verdicts)
    obstacles = [v for v in verdicts if v.marker is Marker.INCOMPARABLE]
    timed = any(verdict.test for verdict in verdicts) and not any(v.kind == "score" for v in obstacles)
    if scores or lost or timed:
        return
    reasons = dict.fromkeys(v.reason for v in obstacles if v.reason)
    why = "; ".join(list(reasons)[:3]) or "they share no cell with scores"
    raise InputError(f"nothing in {base.source} and {new.source} can be compared: {why}.")


def _rank(verdict: Verdict) -> tuple[bool, int, int, float, Key, str]:
    """Regressions first, then by marker, scores before times, the largest loss first."""
    loss = 0.0
    if verdict.change is not None:
        up = verdict.kind in ("flips", "latency")  # of which more is worse
        loss = -verdict.change.value if up else verdict.change.value
    place = ORDER.index(verdict.marker), KINDS.index(verdict.kind)
    return not verdict.regression, *place, loss, verdict.key, verdict.what


def _alone(key: Key, old: Side | None, options: Options) -> Verdict:
    if old is None:
        return Verdict(key, "cell", "", Marker.NEW)
    return Verdict(key, "cell", "", Marker.GONE, regression=not options.allow_missing)


def _scores(key: Key, base: Side, new: Side, options: Options) -> Iterator[Score | Verdict]:
    """Of every task of a cell, or of the cell as a whole where NEW could not be pruned."""
    if (failure := new.record.unmade) and not base.record.unmade:
        yield _failing(key, "cell", "", f"{failure.stage}: {failure.error}", options)
        return
    tasks = [*base.record.scores, *new.record.scores]
    failed = [f.stage for f in new.record.failures if f.stage.startswith("score:")]
    parts = {name for group in base.record.groups.values() for name in group.tasks} - {*tasks}
    tasks += [name for stage in failed if (name := stage.removeprefix("score:")) not in parts]
    for name in dict.fromkeys(tasks):
        before, after = (_value(side.record, name) for side in (base, new))
        if before is None or after is None:
            yield _missing(key, name, base.record, new.record, options)
            continue
        try:
            yield compare_scores.score(key, name, base, new)
        except IncomparableError as reason:
            yield Verdict(
                key, "score", name, Marker.INCOMPARABLE, reason=str(reason), base=before, new=after
            )


def _value(record: Record, name: str) -> float | None:
    """A task's primary metric as leaderboards show it, if it was scored and is a number."""
    task = record.scores.get(name)
    value = task.metrics[task.primary].value if task else None
    return None if task is None or value is None else scale(task) * value


def _missing(key: Key, name: str, base: Record, new: Record, options: Options) -> Verdict:
    before, after = _value(base, name), _value(new, name)
    group = base.groups.get(name) or new.groups.get(name)
    names = [name, *(group.tasks if group else ())]
    reasons = [next(filter(None, (_failure(record, n) for n in names)), None) for record in (base, new)]
    if before is None and after is None:
        reason = reasons[1] or reasons[0] or "without a value on both sides"
        return Verdict(key, "score", name, Marker.INCOMPARABLE, reason=reason)
    if before is None:
        return Verdict(key, "score", name, Marker.NEW, reason=reasons[0], new=after)
    if reasons[1]:
        return _failing(key, "score", name, reasons[1], options, before)
    regression = not options.allow_missing
    return Verdict(key, "score", name, Marker.GONE, regression=regression, base=before)


def _failure(record: Record, name: str) -> str | None:
    """Why a record has no value of a task, as far as it says."""
    failure = record.failed(f"score:{name}") or record.unmade
    if failure:
        return f"{failure.stage}: {failure.error}"
    return "the metric is not a finite number" if name in record.scores else None


def _failing(
    key: Key, kind: Any, what: str, reason: str, options: Options, base: float | None = None
) -> Verdict:
    regression = not options.allow_missing
    line = reason.splitlines()[0]
    return Verdict(key, kind, what, Marker.FAILING, regression=regression, reason=line, base=base)


def _serving(key: Key, base: Record, new: Record, options: Options) -> list[Verdict]:
    """Of a serving measurement that only one side has."""
    if new.unmade or bool(base.serving) == bool(new.serving):
        return []
    if base.serving is None:
        return [Verdict(key, "latency", "", Marker.NEW)]
    if failure := new.failed("serve"):
        return [_failing(key, "latency", "", f"serve: {failure.error}", options)]
    return [Verdict(key, "latency", "", Marker.GONE, regression=not options.allow_missing)]


def _averages(pairs: dict[Key, tuple[Side, Side]]) -> Iterator[Averages]:
    intact = {key[0]: pair for key, pair in pairs.items() if not key[1]}
    for key, (base, new) in pairs.items():
        baselines = intact.get(key[0]) if key[1] else None
        if found := average_change(key, base, new, baselines):
            yield found


def _changes(base: Record, new: Record) -> list[str]:
    """What differs in how a cell was made."""
    before, after = _made(base), _made(new)
    return [
        f"{name}: {before[name]} → {after[name]}"
        for name in sorted(before.keys() & after.keys())  # an older release recorded less
        if before[name] != after[name]
    ]


def _made(record: Record) -> dict[str, Any]:
    """How a cell was made, flat: ``solver.parameters.ridge`` → 0.1."""
    found: dict[str, Any] = {}

    def flatten(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                flatten(f"{prefix}.{name}" if prefix else name, inner)
        else:
            found[prefix] = value

    flatten("", record.identity.canonical())
    if record.prune:
        found["removed layers"] = " ".join("[{}, {})".format(*block) for block in record.prune.blocks)
    return found
