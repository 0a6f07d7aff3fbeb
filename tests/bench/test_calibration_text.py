"""What a record knows of its calibration text, and what happens where that was another."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.records import Record
from bench.store import Store
from replaceme.calibration import CalibrationData, read_text

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def rows(tmp_path: Path, texts: list[str]) -> Path:
    """A file where every seventh row is a number."""
    path = tmp_path / "rows.jsonl"
    said = [3 if i % 7 == 6 else text for i, text in enumerate(texts[:40])]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in said))
    return path


def by_label(out: Path) -> dict[str, Record]:
    return {record.label: record for record in Store(out).all().values()}


@pytest.mark.parametrize("other", [False, True])
def test_cells_of_another_calibration_text_are_made_again(
    call_here: Call,
    write_suite: Callable[..., Path],
    task_folder: Path,
    tokenizer: Any,
    rows: Path,
    tmp_path: Path,
    other: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = {"dataset": "rows.jsonl", "samples": 16, "max_length": 32}
    out, prune = tmp_path / "out", {"layers": [2], "solvers": ["lstsq"]}
    score = {"tasks": ["endings"], "include_path": str(task_folder), "batch_tokens": 512}
    result = call_here("run", write_suite(calibration=settings, prune=prune, score=score), "--out", out)
    assert result.returncode == 0, result.stderr
    found = by_label(out)["lstsq"].prune
    text = read_text(CalibrationData(**settings | {"dataset": str(rows)}), tokenizer)
    assert found and found.calibration_hash == text.hash
    assert found.calibration_rows == text.rows
    if other:
        store = Store(out)
        (stem,) = [stem for stem, record in store.all().items() if record.label == "lstsq"]
        record = store.read(stem)
        assert record and record.prune
        record.prune.calibration_hash = "sha256:another"
        record.quality["endings"].metrics["acc"].value = 0.123
        store.write(stem, record)
    before = by_label(out)["lstsq"]
    prune = {"layers": [2], "solvers": ["lstsq", "uidl"]}
    result = call_here("run", write_suite(calibration=settings, prune=prune, score=score), "--out", out)
    assert result.returncode == 0, result.stderr
    after = by_label(out)
    assert ("made again, since the calibration text has changed" in capfd.readouterr().err) == other
    for record in (after["lstsq"], after["uidl"]):
        assert record.status == "complete" and record.prune
        assert record.prune.calibration_hash == text.hash
    assert (after["lstsq"] == before) == (not other)
    assert after["lstsq"].quality["endings"].metrics["acc"].value != 0.123
