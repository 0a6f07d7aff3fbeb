"""Which columns are shown and hidden together."""

from __future__ import annotations

from bench.leaderboard.table import Column

SETS = {
    "quality": {"average", "rp", "loss", "recovered"},
    "changed answers": {"flips", "lost", "won", "swapped", "kl", "text_kl"}
    | {"task_flips", "task_kl", "task_kl_p99"},
    "tasks": {"task"},
    "perplexities": {"ppl"},
    "latency": {"latency", "throughput", "speedup"},
    "first and further tokens": {"ttft", "tpot"},
    "memory": {"weights", "kv", "peak"},
    "removed layers": {"block"},
    "size": {"disk", "parameters", "compression"},
}
ALWAYS = {"label", "layers", "model"}
OTHER = "other"
MINOR = 5  # the least priority of columns that are hidden at first


def set_of(column: Column) -> str:
    """The set of a column; empty for those that are always shown."""
    if column.kind in ALWAYS:
        return ""
    return next((name for name, kinds in SETS.items() if column.kind in kinds), OTHER)


def sets_of(columns: list[Column]) -> dict[str, bool]:
    """The sets that some columns form, and whether each is shown at first."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        found.setdefault(set_of(column), []).append(column)
    found.pop("", None)
    return {name: any(column.priority < MINOR for column in members) for name, members in found.items()}
