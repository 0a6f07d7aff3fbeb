"""What texts are like that cells wrote, as columns that can be shown."""

from __future__ import annotations

from collections.abc import Iterable

from bench.leaderboard.table import Column, Value
from bench.names import short_task_name
from bench.records import Generation, Record

NOTE = (
    "cut off: share of texts that ended for want of room; tokens: mean of a text; distinct: share of "
    "different ones among its runs of 4 tokens, mean over the texts, low where a model repeats itself."
)


def list_columns(records: Iterable[Record]) -> list[Column]:
    """Three columns for each task that asked for texts."""
    tasks = dict.fromkeys(
        name for record in records for name, task in record.quality.items() if task.generation
    )
    columns = []
    for task in tasks:
        short = short_task_name(task)
        columns += [
            Column(f"cutoff:{task}", f"{short} cut off", "%", 8, "lower", note=NOTE),
            Column(f"tokens:{task}", f"{short} tokens", "", 8, note=NOTE),
            Column(f"distinct:{task}", f"{short} distinct", "%", 8, "higher", note=NOTE),
        ]
    return columns


def list_values(record: Record) -> dict[str, Value]:
    """What these columns hold for a record."""
    values: dict[str, Value] = {}
    for task, scored in record.quality.items():
        if made := scored.generation:
            values |= {f"{name}:{task}": value for name, value in _measure(made).items()}
    return values


def _measure(made: Generation) -> dict[str, Value]:
    cut_off, distinct = (
        Value(None if share is None else 100 * share) for share in (made.cut_off, made.distinct_4grams)
    )
    return {"cutoff": cut_off, "tokens": Value(made.mean_tokens), "distinct": distinct}
