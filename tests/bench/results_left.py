"""What a run leaves in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.store import Store

TIMES = {"solve_seconds", "calibration_seconds", "seconds", "pass_seconds"}
MEMORY = {"peak_memory_bytes", "peak_device_memory_bytes"}


def left_by(out: Path) -> dict[str, Any]:
    """Path → content of all files of a result folder but logs and reports; records without times, places
    and memory."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_file() and not name.startswith(("logs/", "leaderboard.")):
            found[name] = path.read_bytes()
    for stem, record in Store(out).all().items():
        content = record.model_dump(mode="json", exclude={"updated", "environment", "runtime"})
        for part in (content["prune"], *content["quality"].values()):
            for key in (TIMES | MEMORY) & part.keys():
                part.pop(key)
        for task in content["quality"].values():
            task.pop("pass_variants")
        found[f"records/{stem}.json"] = content
    return found
