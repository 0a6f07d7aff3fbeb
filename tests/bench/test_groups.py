"""Groups and tags of tasks: planned, scored, aggregated as lm-eval does, shown and compared as one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.leaderboard.leaderboard import build
from bench.records import Record
from bench.run.runner import Run
from bench.store import Store
from bench.suite import matrix, suite

WriteSuite = Callable[..., Path]

COLOURS = ["red", "blue", "green", "white", "black", "brown", "pink"]
BASE = {
    "dataset_path": "json",
    "test_split": "test",
    "fewshot_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
    ],
    "metadata": {"version": 2},
}
GENERATION = {
    "doc_to_choice": None,
    "output_type": "generate_until",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"until": ["."], "max_gen_toks": 4},
    "filter_list": [
        {
            "name": name,
            "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}],
        }
        for name, pattern in (("strict", r"^ ?(\w+)$"), ("loose", r"(\w)"))
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
SIZES = {
    "a": 12,
    "b": 7,
    "c": 10,
    "d": 5,
    "e": 9,
    "f": 4,
    "g": 8,
    "h": 3,
    "i": 6,
    "j": 11,
    "k": 5,
    "l": 13,
}
TAGGED = {"c": "warm", "d": "warm", "k": "cold", "l": "cold"}
ACC = {"metric": "acc"}
GROUPS = {
    "outer": {
        "task": ["inner", "tagged"],
        "aggregate_metric_list": [ACC, {"metric": "acc_norm", "weight_by_size": True}],
        "metadata": {"version": 3},
    },
    "inner": {"task": ["a", "b"], "aggregate_metric_list": [{**ACC, "weight_by_size": True}]},
    "tagged": {"task": ["warm"], "aggregate_metric_list": {**ACC, "weight_by_size": False}},
    "even": {
        "task": ["e", "f"],
        "aggregate_metric_list": [
            {"metric": name, "weight_by_size": False} for name in ("acc", "acc_norm")
        ],
    },
    "shots": {
        "num_fewshot": 1,
        "task": ["g", {"task": "h", "num_fewshot": 2, "task_alias": "H"}],
        "aggregate_metric_list": [ACC],
    },
    "answers": {
        "task": ["i"],
        "aggregate_metric_list": [{"metric": "exact_match", "filter_list": ["loose"]}],
    },
    "deep": {
        "task": [
            {"group": "within", "task": ["j"], "aggregate_metric_list": [ACC]},
            {"group": "around", "task": ["cold"]},
            {"task": "text", **BASE, "doc_to_text": "Is it so? {{question}}"},
        ],
        "aggregate_metric_list": [{"metric": "acc", "filter_list": "none"}, {"metric": "acc_norm"}],
    },
    "scoreless": {"task": ["a", "inner", "e"]},
}
TOP = ["outer", "even", "shots", "answers", "deep"]


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks of different sizes and groups of them."""
    folder = tmp_path_factory.mktemp("groups")
    for number, (name, size) in enumerate(SIZES.items()):
        items = [
            {"question": f"Box {i} of {name} is {COLOURS[(i * 5 + number) % 7]}. Its colour is"}
            | {"choices": [COLOURS[(i + number) % 7], COLOURS[(i + 3) % 7]], "answer": (i + number) % 2}
            for i in range(size)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, items)))
        task = {"task": name} | data(folder, name) | ({"tag": TAGGED[name]} if name in TAGGED else {})
        task |= {"include": "base.txt"} if name != "i" else {**BASE, **GENERATION}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    (folder / "base.txt").write_text(yaml.safe_dump(BASE))
    for name, config in GROUPS.items():
        text = yaml.safe_dump({"group": name} | config)
        (folder / f"{name}.yaml").write_text(text)
    deep = yaml.safe_load((folder / "deep.yaml").read_text())
    deep["task"][2] |= data(folder, "a")
    (folder / "deep.yaml").write_text(yaml.safe_dump(deep))
    return folder


def data(folder: Path, name: str) -> dict[str, Any]:
    return {"dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}}}


@pytest.fixture
def score(groups: Path) -> Callable[..., dict[str, Any]]:
    """The score section of a suite with some tasks."""
    return lambda *tasks, **more: {
        "tasks": list(tasks),
        "include_path": str(groups),
        "batch_tokens": 512,
        "dtype": "float32",
        **more,
    }


def expanded(path: Path) -> matrix.Plan:
    return matrix.expand(suite.load(path))


def run(path: Path, out: Path) -> dict[str, Record]:
    """The records of a run by label."""
    Run(expanded(path), out).execute()
    return {record.label: record for record in Store(out).all().values()}


@pytest.fixture(scope="module")
def scored(
    groups: Path, small_suite: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Record]]:
    """The result folder of a run with all groups, and its records by label."""
    folder = tmp_path_factory.mktemp("scored")
    content = small_suite | {
        "prune": {"layers": [2], "solvers": ["lstsq"]},
        "score": {
            "tasks": [*TOP, "warm", {"task": "a", "average": False}],
            "include_path": str(groups),
            "batch_tokens": 512,
            "dtype": "float32",
        },
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    return folder / "out", run(folder / "suite.yaml", folder / "out")


def lm_eval(checkpoint: Path, folder: Path, out: Path) -> dict[str, Any]:
    """What lm-eval's command line says of the groups."""
    words = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"]
    words += ["--model_args", f"pretrained={checkpoint},dtype=float32", "--batch_size", "1"]
    words += ["--tasks", ",".join(TOP), "--include_path", str(folder), "--output_path", str(out)]
    subprocess.run(words, check=True, capture_output=True)
    (path,) = out.rglob("results_*.json")
    return dict(json.loads(path.read_text("utf-8")))


def test_groups_are_those_of_the_lm_eval_command_line_to_the_digit(
    groups: Path, scored: tuple[Path, dict[str, Record]], tmp_path: Path
) -> None:
    out, records = scored
    (checkpoint,) = (path for path in (out / "checkpoints").iterdir() if path.is_dir())
    theirs = lm_eval(checkpoint, groups, tmp_path / "lm_eval")
    record = records["lstsq"]
    assert {*theirs["groups"]} == {*record.groups} == {*TOP, "inner", "tagged", "deep::within"}
    compared = 0
    for name, group in record.groups.items():
        found = theirs["groups"][name]
        assert group.items == found["sample_len"]
        assert group.members == theirs["group_subtasks"][name]
        assert str(theirs["versions"][name]) == (group.version or "N/A")
        for label, metric in group.metrics.items():
            key, _, chain = label.partition(",")
            chain = chain or "none"
            assert metric.value == found[f"{key},{chain}"]
            assert metric.stderr == found[f"{key}_stderr,{chain}"]
            compared += 1
        keys = [key for key in found if "," in key and "_stderr" not in key]
        assert len(keys) == len(group.metrics)
    assert compared == 11
    assert record.quality["g"].num_fewshot == 1
    assert record.quality["h"].num_fewshot == 2
    assert len({m.value for g in record.groups.values() for m in g.metrics.values()}) > 6


def test_group_is_one_column_and_one_entry_of_the_average(
    scored: tuple[Path, dict[str, Record]],
) -> None:
    _, records = scored
    record = records["lstsq"]
    columns = ["outer", "a", "c", "d", "even", "shots", "answers", "deep"]
    assert sorted(record.scores) == sorted(columns)
    table = build(records.values())
    assert [c.key for c in table.columns if c.kind == "task"] == [f"task:{n}" for n in record.scores]
    row = next(row for row in table.rows if row.label == "lstsq")
    values = [
        100 * record.scores[n].metrics[record.scores[n].primary].value for n in columns if n != "a"
    ]  # type: ignore[operator]
    assert row.values["average"].number == pytest.approx(sum(values) / 7)
    assert row.values["task:outer"].number == pytest.approx(
        100 * sum(SIZES[n] * record.quality[n].metrics["acc_norm"].value for n in "abcd") / 34  # type: ignore[operator]
    )
