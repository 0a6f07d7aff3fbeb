"""Scores go with what was asked: they are computed again where that has changed behind its name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.records import Record
from bench.store import Store

pytestmark = pytest.mark.slow

Call = Callable[..., Any]
CODE = """
import json
import os
from pathlib import Path

import datasets

def items(**_):
    texts = Path("texts/right.txt").read_text().split()
    answer = texts.index(os.environ.get("RIGHT", "blue"))
    rows = [{"q": f"Box {i} is", "c": texts, "a": answer} for i in range(4)]
    return {"test": datasets.Dataset.from_list(rows)}
"""
TASK = {
    "task": "boxes",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{c}}",
    "doc_to_target": "{{a}}",
    "metadata": {"version": 1},
}
SAMPLED = TASK | {
    "task": "sampled",
    "output_type": "generate_until",
    "doc_to_target": "blue",
    "metric_list": [{"metric": "exact_match"}],
    "generation_kwargs": {"do_sample": True, "temperature": 1.0, "until": ["."], "max_gen_toks": 2},
}
del SAMPLED["doc_to_choice"]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with a task that makes its items itself, of a file beside it and of the environment."""
    folder = tmp_path / "tasks"
    (folder / "texts").mkdir(parents=True)
    (folder / "own.py").write_text(CODE)
    (folder / "texts" / "right.txt").write_text("red blue")
    for task in (TASK, SAMPLED):
        text = yaml.safe_dump(task) + "custom_dataset: !function own.items\n"
        (folder / f"{task['task']}.yaml").write_text(text)
    return folder


@pytest.fixture
def run(call_here: Call, write_suite: Call, tasks: Path, tmp_path: Path) -> Callable[..., Any]:
    """Runs a suite with one of the tasks into one folder; returns its records by cell."""

    def run(
        *options: Any, task: str = "boxes", method: str = "one-pass", batch: int = 4
    ) -> dict[str, Record]:
        score = {"tasks": [task], "include_path": str(tasks), "method": method, "batch_size": batch}
        score["generate"] = "transformers"
        suite = write_suite(score=score, prune={"layers": [2], "solvers": ["uidl"]})
        out = tmp_path / "out"
        assert call_here("run", suite, "--out", out, *options).returncode == 0
        plan = json.loads(call_here("plan", suite, "--out", out, "--json").stdout)
        assert options or not any(cell["left"] for cell in plan["cells"])
        return {record.label: record for record in Store(out).all().values()}

    return run


def test_a_file_that_a_function_reads_is_part_of_the_task(run: Call, tasks: Path) -> None:
    """The same size and time of change: only its content tells."""
    file = tasks / "texts" / "right.txt"
    before, stat = run(), file.stat()
    known = before["baseline"].quality["boxes"]
    assert {"own.py", "texts/right.txt"} <= set(known.files)
    assert run() == before
    file.write_text("tan blue")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for label, record in run().items():
        assert record.quality["boxes"].requests != known.requests, label


@pytest.mark.parametrize("method", ["one-pass", "per-variant"])
def test_cells_that_were_asked_something_else_are_scored_again(
    run: Call, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked depends on something that no file tells; the accuracies of both answers add up to
    one, since each item has two choices."""
    old = run("--only", "*/baseline", method=method)["baseline"].quality["boxes"]
    monkeypatch.setenv("RIGHT", "red")
    records = run(method=method)
    new = {label: record.quality["boxes"] for label, record in records.items()}
    assert new["baseline"].requests == new["uidl"].requests != old.requests
    (before, after) = (task.metrics["acc"].value for task in (old, new["baseline"]))
    assert before is not None and after == 1 - before
    assert run(method=method) == records


def test_a_batch_size_is_part_of_a_task_whose_answers_are_drawn(run: Call) -> None:
    first = run(task="sampled", batch=4)
    assert first["baseline"].quality["sampled"].sampled_batch == 4
    again = run(task="sampled", batch=2)
    assert again["baseline"].quality["sampled"].sampled_batch == 2
    assert again["uidl"].prune == first["uidl"].prune
    plain = run(batch=4)
    assert run(batch=2)["uidl"].quality["boxes"] == plain["uidl"].quality["boxes"]
