"""What changed in a variant's answers, task by task, as a table for its drawer."""

from __future__ import annotations

from bench.changes import divergence_of, flips_of
from bench.records import Record

COLUMNS = ["task", "items", "flips"]
COLUMNS += ["right → wrong", "wrong → right", "wrong → other wrong"]
COLUMNS += ["predicted tokens", "KL (nats)", "KL p99 (nats)"]


def list_rows(record: Record) -> list[list[str]]:
    """The tasks of which flips or divergence are known, in the columns of ``COLUMNS``."""
    rows = []
    for name in record.scores:
        flips, divergence = flips_of(record, name), divergence_of(record, name)
        if not flips and not divergence:
            continue
        counts = ["–"] * 5
        if flips:
            share = f"{100 * flips.changed / flips.items:.1f} %" if flips.items else "–"
            ways = flips.right_to_wrong, flips.wrong_to_right, flips.wrong_to_wrong
            counts = [f"{flips.items:,}", share, *("–" if n is None else f"{n:,}" for n in ways)]
        far = ["–"] * 3
        if divergence:
            values = divergence.mean, divergence.p99
            far = [f"{divergence.positions:,}", *("–" if v is None else f"{v:.4f}" for v in values)]
        rows.append([name, *counts, *far])
    return rows


def state_text(record: Record) -> str | None:
    """Divergence on calibration text, as a sentence."""
    found = record.prune.divergence if record.prune and not record.heal else None
    if found is None or found.mean is None or found.p99 is None:
        return None
    return (
        f"On held-back calibration text: KL {found.mean:.4f} nats, 99th percentile {found.p99:.4f}, "
        f"over {found.positions:,} positions."
    )
