"""What a table says of noisy measurements."""

from __future__ import annotations

from collections.abc import Iterable

from bench.records import Record

LEGEND = "?: noisy, so in no ranking and no speed-up; `run --retry-noisy` measures it again."


def describe_noise(records: Iterable[Record]) -> list[str]:
    """What disturbed the noisy measurements, one sentence for each, below what their mark means."""
    told: dict[str, None] = {}
    for record in records:
        if record.serving and record.serving.noise:
            loads = "; ".join(f"{load.header}: {why}" for load, why in record.serving.noise.items())
            told[f"? measured on {record.serving.measured_on}: {loads}."] = None
    return [LEGEND, *told] if told else []
