"""Columns of what changed in a variant's answers and predictions, over the tasks and of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.changes import divergence_of, flips_of
from bench.leaderboard.averages import mean
from bench.leaderboard.table import Column, Value
from bench.names import short_task_name
from bench.records import Flips, Record

FLIPS = "flips: share of items whose chosen answer is not the intact model's"
KL = "KL: KL(intact ‖ variant) of next-token distributions, nats per predicted token"
KINDS = {
    "flips": "changed",
    "lost": "right_to_wrong",
    "won": "wrong_to_right",
    "swapped": "wrong_to_wrong",
}
NOTES = {
    "lost": "lost: share of items that the intact model answers rightly and the variant wrongly",
    "won": "won: share of items that the intact model answers wrongly and the variant rightly",
    "swapped": "swapped: share of items that both answer wrongly, and otherwise",
}
TEXT = "text KL: KL(intact ‖ variant) at every position of the calibration text that was held back."


@dataclass(frozen=True)
class Compared:
    """The tasks of which flips, or divergence, are known for any of some records."""

    flips: list[str]
    divergence: list[str]

    @classmethod
    def of(cls, records: Iterable[Record]) -> Compared:
        pairs = [(record, name) for record in records for name in record.scores]
        return cls(
            list(dict.fromkeys(name for record, name in pairs if flips_of(record, name))),
            list(dict.fromkeys(name for record, name in pairs if divergence_of(record, name))),
        )


def list_columns(records: Sequence[Record]) -> tuple[list[Column], list[Column]]:
    """The columns that are shown, and those that can be asked for; none where nothing is known."""
    compared, tasks = Compared.of(records), {name for record in records for name in record.scores}
    shown, spare = [], []
    if names := compared.flips:
        over = _over(names, tasks)
        shown.append(Column("flips", "flips", "%", 2, "lower", 1, f"{FLIPS}, {over}"))
        better = {"lost": "lower", "won": "higher", "swapped": None}
        for key in NOTES:
            spare.append(Column(key, key, "%", 6, better[key], 1, f"{NOTES[key]}, {over}"))
        spare += [_of_task("flips", name, "%", 1, f"{FLIPS}.") for name in names]
    if names := compared.divergence:
        shown.append(Column("kl", "KL", "nats", 2, "lower", 3, f"{KL}, {_over(names, tasks)}"))
        spare += [_of_task("kl", name, "nats", 3, f"{KL}.") for name in names]
        spare += [
            _of_task("kl_p99", name, "nats", 3, "KL p99: its 99th percentile over the predicted tokens.")
            for name in names
        ]
    if any(record.prune and record.prune.divergence for record in records):
        spare.append(Column("text_kl", "text KL", "nats", 6, "lower", 3, TEXT))
    return shown, spare


def _over(names: Sequence[str], tasks: set[str]) -> str:
    listed = "" if set(names) == tasks else f" {', '.join(names)}"
    return f"mean over the tasks{listed}."


def _of_task(kind: str, name: str, unit: str, digits: int, note: str) -> Column:
    header = f"{short_task_name(name)} {kind.replace('_', ' ').replace('kl', 'KL')}"
    return Column(f"task_{kind}:{name}", header, unit, 6, "lower", digits, note)


def list_values(record: Record, compared: Compared) -> dict[str, Value]:
    """Column → value; a mean is unknown where a task is missing that another cell of the model has."""
    flips = {name: flips_of(record, name) for name in compared.flips}
    values = {key: _mean_share(flips.values(), part) for key, part in KINDS.items()}
    values |= {f"task_flips:{name}": _mean_share([found], "changed") for name, found in flips.items()}
    divergences = {name: divergence_of(record, name) for name in compared.divergence}
    means = [found.mean if found else None for found in divergences.values()]
    known = [value for value in means if value is not None]
    values["kl"] = Value(mean(known)) if known and len(known) == len(means) else Value()
    for name, divergence in divergences.items():
        if divergence:
            values[f"task_kl:{name}"] = Value(divergence.mean)
            values[f"task_kl_p99:{name}"] = Value(divergence.p99)
    values["text_kl"] = Value(record.divergence)
    return values


def _mean_share(flips: Iterable[Flips | None], part: str) -> Value:
    """Mean over some tasks of a share of their items in percent; unknown where one is."""
    pairs = [(getattr(found, part), found.items) if found else (None, 0) for found in flips]
    shares = [100 * count / items for count, items in pairs if count is not None and items]
    return Value(mean(shares)) if shares and len(shares) == len(pairs) else Value()
