"""The files of ``.eval_results``, read by the hub's own library."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from bench.card import eval_results
from bench.records import Record, Task
from bench.store import Store
from bench.tasks.identity import TaskIdentity

Call = Callable[..., subprocess.CompletedProcess[str]]
DEMO = Path(__file__).parent / "samples" / "demo"


@pytest.fixture
def record() -> Record:
    """A pruned cell of the demo, scored on two tasks of one data set of the hub and one of another."""
    (found,) = [r for r in Store(DEMO).all().values() if (r.layers, r.label) == (6, "refit")]
    own, task = next(iter(found.quality.items()))
    known = task.identity.canonical() | {"data": f"lm_eval=={metadata.version('lm_eval')}"}

    def scored(value: float, **identity: object) -> Task:
        changed = task.model_copy(deep=True)
        changed.metrics[task.primary].value = value
        told = TaskIdentity.model_validate(known | identity)
        return changed.model_copy(update={"identity": told, "num_fewshot": 5})

    found.quality = {
        "arc_easy": scored(0.25),
        "arc_challenge": scored(0.375, limit=100),
        "hellaswag": scored(0.5),
        own: task,
    }
    return found


def test_hub_reads_every_score_on_its_data_sets(record: Record) -> None:
    texts, others = eval_results.files(record)
    read = {name: parse_eval_result_entries(yaml.safe_load(text)) for name, text in texts.items()}
    shown = {
        name: [(e.dataset_id, e.task_id, e.value) for e in entries] for name, entries in read.items()
    }
    assert shown == {
        "allenai__ai2_arc.yaml": [
            ("allenai/ai2_arc", "ARC-Easy", 0.25),
            ("allenai/ai2_arc", "ARC-Challenge", 0.375),
        ],
        "Rowan__hellaswag.yaml": [("Rowan/hellaswag", "default", 0.5)],
    }
    entry = read["allenai__ai2_arc.yaml"][1]
    version = record.environment["packages"]["lm_eval"]
    assert entry.notes == f"acc_norm of arc_challenge, 5-shot, first 100 items, lm-eval {version}"
    assert entry.date == record.updated
    assert (entry.source_name, entry.verify_token) == ("lm-evaluation-harness", None)
    assert others == ["demo_facts"]


def test_score_that_is_no_number_is_left_out(record: Record) -> None:
    task = record.quality["hellaswag"]
    task.metrics[task.primary].value = None
    assert [*eval_results.files(record)[0]] == ["allenai__ai2_arc.yaml"]


def test_files_lie_beside_the_card_that_is_written(
    call_here: Call, record: Record, tmp_path: Path
) -> None:
    Store(tmp_path / "results").write("x", record)
    command = ("card", "x", "--results", tmp_path / "results")
    printed = call_here(*command)
    assert (printed.returncode, printed.stderr) == (0, "")
    done = call_here(*command, "-o", tmp_path / "model" / "README.md")
    assert done.returncode == 0
    assert "no data set of the hub is known: demo_facts" in done.stderr
    written = {path.name: path.read_text() for path in (tmp_path / "model/.eval_results").iterdir()}
    assert written == eval_results.files(record)[0]
