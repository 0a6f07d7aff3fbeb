"""Groups and tags of tasks: planned, scored, aggregate as lm-eval does, shown and compared as one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bench.changes import flips_of
from bench.compare import scores, significance
from bench.compare.compare import compare
from bench.compare.items import Side, pair_items
from bench.leaderboard.leaderboard import build
from bench.page import render
from bench.page.drawer import drawers
from bench.records import Group, Record, Task
from bench.results import open_results
from bench.run.ledger import Ledger
from bench.run.runner import Run
from bench.store import Store
from bench.suite import matrix, suite
from bench.tasks import index
from bench.tasks.groups import NOT_OF_TASKS, expand
from bench.tasks.groups import Group as TasksOf
from bench.tasks.index import lm_eval_folder
from replaceme.errors import InputError

pytestmark = pytest.mark.slow

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


def primary(score: Task | Group) -> float:
    value = score.metrics[score.primary].value
    assert value is not None
    return value


def planned(write_suite: WriteSuite, score: dict[str, Any]) -> matrix.Plan:
    return matrix.expand(suite.load(write_suite(score=score)))


def run(path: Path, out: Path) -> dict[str, Record]:
    """The records of a run by label."""
    Run(Ledger(matrix.expand(suite.load(path)), out)).execute()
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
            "generate": "transformers",
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
    values = [primary(record.scores[name]) for name in columns if name != "a"]
    assert row.values["average"].number == pytest.approx(100 * sum(values) / 7)
    by_hand = sum(SIZES[name] * primary(record.quality[name]) for name in "abcd") / 34
    assert row.values["task:outer"].number == pytest.approx(100 * by_hand)


def test_failed_task_fails_its_groups_alone_and_is_all_that_is_left(
    write_suite: WriteSuite, score: Callable[..., dict[str, Any]], groups: Path, tmp_path: Path
) -> None:
    for name in ("e", "f", "even"):
        text = (groups / f"{name}.yaml").read_text()
        (tmp_path / f"{name}.yaml").write_text(text.replace("base.txt", str(groups / "base.txt")))
    broken = tmp_path / "f.yaml"
    right = broken.read_text()
    broken.write_text(right + "doc_to_text: '{{question.nothing.at_all}}'\n")
    path = write_suite(
        prune={"layers": [2], "solvers": ["uidl"]},
        score=score("even", {"task": "e", "average": False}, include_path=str(tmp_path)),
    )
    record = run(path, tmp_path / "out")["uidl"]
    assert [failure.stage for failure in record.failures] == ["score:f"]
    assert [*record.scores] == ["e"]
    assert not record.groups
    assert Ledger(matrix.expand(suite.load(path)), tmp_path / "out").count_due() == 0
    broken.write_text(right)
    record = run(path, tmp_path / "out")["uidl"]
    assert record.status == "complete"
    assert [*record.scores] == ["even", "e"]
    even = (primary(record.quality["e"]) + primary(record.quality["f"])) / 2
    assert primary(record.groups["even"]) == pytest.approx(even)


def test_compare_pools_the_items_of_a_group(scored: tuple[Path, dict[str, Record]]) -> None:
    out, _ = scored
    results = open_results(str(out))
    stems = {record.label: stem for stem, record in results.records.items()}
    sides = [Side(results.records[stems[n]], results.samples(stems[n])) for n in ("baseline", "lstsq")]
    for name, tasks in {"outer": "abcd", "even": "ef"}.items():
        old, new = pair_items(name, *sides)
        assert old.sizes == tuple(SIZES[task] for task in tasks)
        for items, side in zip((old, new), sides, strict=True):
            assert 100 * items.scores.mean() == pytest.approx(100 * primary(side.record.groups[name]))
    found = scores.score(("tiny", 2, "lstsq"), "outer", *sides)
    assert found.draft.items == 34
    assert found.draft.test == "exact McNemar"
    weighted = scores.score(("tiny", 2, "lstsq"), "even", *sides)
    assert weighted.draft.test == "sign-flip permutation"
    verdicts = compare(results, results).verdicts
    names = [v.what for v in verdicts if v.kind == "score"]
    assert sorted(set(names)) == sorted(sides[0].record.scores)
    counted = {name: flips_of(sides[1].record, name) for name in ("outer", "a", "deep")}
    for name, flips in counted.items():
        (flipped,) = [v for v in verdicts if v.what == f"{name} flips"]
        assert flips
        assert (flipped.items, flipped.base) == (flips.items, 100 * flips.changed / flips.items)
    assert any(flips and flips.changed for flips in counted.values())


def test_items_are_drawn_from_each_task_by_itself() -> None:
    scores_of_two = np.array([[0.0]] * 30 + [[1.0]] * 10)
    assert set(significance.resampled_means(scores_of_two, sizes=(30, 10))[:, 0]) == {0.25}
    assert significance.resampled_means(scores_of_two).std() > 0.05


def test_page_opens_a_group(scored: tuple[Path, dict[str, Record]]) -> None:
    _, records = scored
    drawer = next(d for key, d in drawers(records.values()).items() if key[2] == "lstsq")
    (section,) = (s for s in drawer.sections if s.title == "Tasks of outer")
    assert [row[0] for row in section.rows] == ["inner", "› a", "› b", "tagged", "› c", "› d"]
    assert "<details><summary>Tasks of outer</summary>" in render(
        [*records.values()], build(records.values())
    )


def test_names_that_are_no_tasks_by_themselves_are_opened(
    write_suite: WriteSuite, score: Callable[..., dict[str, Any]]
) -> None:
    plan = planned(write_suite, score("scoreless"))
    assert plan.notes == [
        "The group 'scoreless' has no score of its own in lm-eval; its 3 members have."
    ]
    assert [task.name for task in plan.tasks if task.column] == ["a", "e"]
    assert [group.name for group in plan.groups if group.column] == ["inner"]
    assert [t.name for t in planned(write_suite, score("warm")).tasks] == ["c", "d"]
    plan = planned(write_suite, score({"task": "[oi][un][tn]er", "num_fewshot": 3}))
    assert [group.name for group in plan.groups if group.column] == ["outer"]
    assert [group.name for group in plan.groups] == ["inner", "tagged", "outer"]
    assert not any(task.column for task in plan.tasks)
    assert {task.spec.num_fewshot for task in plan.tasks} == {3}


@pytest.mark.parametrize(
    ("files", "tasks", "part"),
    [
        ({}, ["outr"], "unknown task 'outr'; did you mean 'outer'?"),
        ({}, ["zzz*"], "no task, group or tag has a name like 'zzz*'"),
        ({}, ["shots", "g"], "the task 'g' is asked for twice with different settings"),
        ({"x": {"task": ["nowhere"]}}, ["x"], "the group 'x' names an unknown task 'nowhere'"),
        ({"x": {"task": [{"num_fewshot": 1}]}}, ["x"], "neither a name nor a mapping"),
        ({"x": {"task": ["y"]}, "y": {"task": ["x"]}}, ["x"], "'x' contains itself, through 'y'"),
        ({"x": {"task": ["a"], "aggregate_metric_list": [{"metrik": 1}]}}, ["x"], "metric_list is a"),
    ],
)
def test_wrong_group_is_told_in_a_sentence(
    write_suite: WriteSuite,
    score: Callable[..., dict[str, Any]],
    groups: Path,
    tmp_path: Path,
    files: dict[str, Any],
    tasks: list[str],
    part: str,
) -> None:
    for name, config in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"group": name} | config))
    with pytest.raises(InputError, match=re.escape(part)):
        planned(write_suite, score(*tasks, include_path=[str(groups), str(tmp_path)]))


def test_groups_of_lm_eval_have_the_tasks_that_it_gives_them() -> None:
    """Its own factory is the judge, with nothing of the tasks built."""
    from lm_eval.api.group import Group as TheirGroup
    from lm_eval.tasks import TaskManager, _factory

    class Leaf:
        def __init__(self, name: str, overrides: dict[str, Any]) -> None:
            self.task_name, self.overrides = name, overrides

    class Factory(_factory.TaskFactory):  # type: ignore[misc]
        def _build_task(self, entry: Any, overrides: dict[str, Any] | None) -> Leaf:
            return Leaf(entry.name, overrides or {})

    def theirs(part: Any) -> Any:
        if isinstance(part, TheirGroup):
            return {part.name: [theirs(member) for member in part]}
        return part.task_name, {k: v for k, v in part.overrides.items() if k not in NOT_OF_TASKS}

    def ours(part: Any) -> Any:
        if isinstance(part, TasksOf):
            return {part.name: [ours(member) for member in part.members]}
        return part.name, dict(part.overrides)

    folder = lm_eval_folder()
    assert folder
    paths = [
        folder / "tasks" / name for name in ("mmlu", "bbh", "leaderboard", "ceval", "agieval", "wmdp")
    ]
    manager = TaskManager(include_path=paths, include_defaults=False)
    names = [name for name in manager.all_groups if len(index.read_builtin()[name].members) > 1]
    for name in names:
        built = Factory().build(manager.task_index[name], registry=manager.task_index)
        assert [theirs(built)] == [ours(part) for part in expand(name, [])]
    assert len(names) > 20
