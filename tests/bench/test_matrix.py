"""Cells and their identities."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel

from bench.serving import spec as serving_spec
from bench.suite import matrix, prune_spec, suite
from bench.suite.by_name import list_known_by_name
from bench.suite.matrix import IDENTITY, RUNTIME
from bench.verbs.suite_options import Limit
from replaceme.settings import SolverSpec
from replaceme.solvers import SOLVERS

WriteSuite = Callable[..., Path]
CLASSIFIED = [
    suite.Suite,
    suite.ModelSpec,
    suite.PruneSpec,
    SolverSpec,
    suite.ScoreSpec,
    suite.TaskSpec,
    prune_spec.Matrix,
]


def cells(path: Path) -> dict[str, matrix.Cell]:
    return {cell.name: cell for cell in matrix.expand(suite.load(path)).cells}


@pytest.mark.parametrize("section", CLASSIFIED, ids=lambda section: section.__name__)
def test_every_suite_field_is_classified_as_identity_or_runtime(section: type[BaseModel]) -> None:
    identity, runtime = IDENTITY[section.__name__], RUNTIME.get(section.__name__, set())
    assert not identity & runtime
    assert identity | runtime == set(section.model_fields), (
        "a new field of a suite changes numbers or it does not: add it to IDENTITY in bench/matrix.py "
        "(and to the identity that is computed there) or to RUNTIME"
    )


def test_every_serving_field_is_classified_as_identity_or_runtime() -> None:
    identity, runtime = serving_spec.IDENTITY_FIELDS, serving_spec.RUNTIME_FIELDS
    assert not identity & runtime
    assert identity | runtime == set(serving_spec.ServeSettings.model_fields), (
        "a new field of ServeSettings changes what is measured or it does not: add it to "
        "IDENTITY_FIELDS or to RUNTIME_FIELDS in bench/serving/spec.py"
    )


IDENTITY_CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "layers": lambda c: c["prune"].update(layers=[3]),
    "solver parameter": lambda c: c["prune"].update(solvers=["uidl", {"name": "lstsq", "ridge": 0.1}]),
    "selector": lambda c: c["prune"].update(selector="perplexity"),
    "number of blocks": lambda c: c["prune"].update(num_blocks=2),
    "blocks": lambda c: c.update(prune={"blocks": [[3, 5]], "solvers": ["lstsq"]}),
    "compat": lambda c: c["prune"].update(compat="reference"),
    "calibration dtype": lambda c: c["prune"].update(calibration_dtype="bfloat16"),
    "calibration samples": lambda c: c["calibration"].update(samples=17),
    "calibration length": lambda c: c["calibration"].update(max_length=33),
    "calibration seed": lambda c: c["calibration"].update(seed=7),
    "dtype": lambda c: c.update(models=[{"id": c["models"][0], "dtype": "bfloat16"}]),
}
RUNTIME_CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda c: c.update(name="other"),
    "batch sizes": lambda c: (c["prune"].update(batch_size=1), c["score"].update(batch_size=1)),
    "device": lambda c: c.update(device="cuda"),
    "memory": lambda c: c.update(memory="20GiB"),
    "executor": lambda c: c.update(executor={"name": "ray", "workers": 2}),
    "label of a solver": lambda c: c["prune"].update(solvers=["uidl", {"name": "lstsq", "as": "ls"}]),
    "tasks": lambda c: c["score"].update(tasks=["colours"], limit=3),
}


@pytest.mark.parametrize("change", IDENTITY_CHANGES.values(), ids=IDENTITY_CHANGES.keys())
def test_what_changes_the_variant_changes_its_identity(
    write_suite: WriteSuite, content: dict[str, Any], change: Callable[[dict[str, Any]], Any]
) -> None:
    before = cells(write_suite())["tiny/2/lstsq"].identity
    change(content)
    assert before not in [cell.identity for cell in cells(write_suite()).values()]


@pytest.mark.parametrize("change", RUNTIME_CHANGES.values(), ids=RUNTIME_CHANGES.keys())
def test_what_does_not_change_the_variant_keeps_its_identity(
    write_suite: WriteSuite, content: dict[str, Any], change: Callable[[dict[str, Any]], Any]
) -> None:
    before = cells(write_suite())["tiny/2/lstsq"].identity
    change(content)
    assert before in [cell.identity for cell in cells(write_suite()).values()]


def test_the_day_counts_where_a_chat_template_may_ask_for_it(
    write_suite: WriteSuite, tmp_path: Path
) -> None:
    def identity(day: str, dataset: str) -> dict[str, Any]:
        path = write_suite(calibration={"dataset": dataset, "samples": 16}, date=day)
        return cells(path)["tiny/2/lstsq"].identity.canonical()["calibration"]

    (tmp_path / "a.jsonl").write_text('{"text": "Some words."}\n')
    (tmp_path / "a.txt").write_text("Some words.")
    for dataset, counts in (("org/chats", True), ("./a.jsonl", True), ("./a.txt", False)):
        days = [identity(day, dataset) for day in ("2024-07-26", "2024-07-27")]
        assert (days[0] != days[1]) == counts
        assert ("date" in days[0]) == counts
    assert "date" not in identity("2024-07-27", "builtin:prose")


def test_order_and_division_of_given_blocks_do_not_count(write_suite: WriteSuite) -> None:
    def identity(*blocks: list[int]) -> dict[str, Any]:
        suite_file = write_suite(prune={"blocks": list(blocks), "solvers": ["uidl"]})
        (found,) = [cell for cell in cells(suite_file).values() if cell.solver]
        return found.identity.canonical()

    assert identity([1, 2], [4, 7]) == identity([4, 7], [1, 2]) == identity([4, 5], [5, 7], [1, 2])
    assert identity([1, 2], [4, 7]) != identity([1, 2], [4, 6])


def test_selector_of_given_blocks_does_not_count(write_suite: WriteSuite) -> None:
    prune = {"blocks": [[2, 4]], "solvers": ["uidl"]}
    one = cells(write_suite(prune=prune))["tiny/2/uidl"].identity
    other = cells(write_suite(prune=prune | {"selector": "perplexity"}))["tiny/2/uidl"].identity
    assert one == other


def test_given_blocks_are_one_variant_named_by_their_layers(write_suite: WriteSuite) -> None:
    path = write_suite(prune={"blocks": [[1, 2], [5, 7]], "solvers": ["uidl", "refit"]})
    assert list(cells(path)) == ["tiny/baseline", "tiny/3/uidl", "tiny/3/refit"]


def test_every_solver_takes_its_parameters_and_a_label(write_suite: WriteSuite) -> None:
    given = [
        {"name": "uidl", "as": "plain"},
        {"name": "lstsq", "ridge": 0.1, "alpha": 2, "diagonal": True},
        {"name": "cosine", "method": "irls", "exact": True, "iterations": 3, "as": "angle"},
        {"name": "relative", "ridge": 0.1},
        {"name": "refit", "ridge": 0.1, "as": "refit-0.1"},
        {"name": "reconstruct", "ridge": 2, "cut_ridge": 0.1, "tokens": 100},
    ]
    assert {entry["name"] for entry in given} == set(SOLVERS)
    found = cells(write_suite(prune={"layers": [2], "solvers": given}))
    labels = ["plain", "lstsq", "angle", "relative", "refit-0.1", "reconstruct"]
    assert list(found)[1:] == [f"tiny/2/{label}" for label in labels]
    for cell, entry in zip(list(found.values())[1:], given, strict=True):
        parameters = {key: value for key, value in entry.items() if key not in ("name", "as")}
        solver = cell.identity.canonical()["solver"]
        assert solver["name"] == entry["name"]
        assert parameters.items() <= solver["parameters"].items()


def test_weights_are_known_by_content_not_by_path(
    write_suite: WriteSuite, tiny: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny, tmp_path / "elsewhere" / "tiny")
    here = cells(write_suite())["tiny/2/uidl"].identity
    moved = write_suite(models=[str(tmp_path / "elsewhere" / "tiny")])
    assert cells(moved)["tiny/2/uidl"].identity == here
    config = tmp_path / "elsewhere" / "tiny" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rope_theta": 5}))
    assert cells(moved)["tiny/2/uidl"].identity != here


def test_a_changed_tokenizer_is_another_model(
    write_suite: WriteSuite, tiny: Path, tmp_path: Path
) -> None:
    """The losses of a run with one tokenizer are not those of a run with another."""
    shutil.copytree(tiny, tmp_path / "tiny")
    suite = write_suite(models=[str(tmp_path / "tiny")])
    before = cells(suite)
    tokenizer = tmp_path / "tiny" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    after = cells(suite)
    assert all(after[name].stem != cell.stem for name, cell in before.items())


def test_task_identity_follows_its_data(
    write_suite: WriteSuite, task_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tasks"
    shutil.copytree(task_folder, folder)
    path = write_suite(score={"tasks": ["colours"], "include_path": str(folder)})
    (before,) = matrix.expand(suite.load(path)).tasks
    (folder / "colours.jsonl").write_text((folder / "colours.jsonl").read_text() + "\n")
    (after,) = matrix.expand(suite.load(path)).tasks
    assert before.identity.data != after.identity.data


TASK_CHANGES: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "one seed": {"seed": [0, 1234, 1234, 5]},
    "limit": {"limit": 3},
    "dtype": {"dtype": "bfloat16"},
    "examples": {"tasks": [{"task": "colours", "num_fewshot": 1}]},
    "chat template": {"apply_chat_template": True},
    "its name": {"apply_chat_template": "tools"},
    "one turn": {"apply_chat_template": True, "fewshot_as_multiturn": False},
    "instruction": {"system_instruction": "Answer."},
    "instruction of the task": {"tasks": [{"task": "colours", "system_instruction": "Answer!"}]},
}


def test_what_changes_scores_changes_the_identity_of_a_task(
    write_suite: WriteSuite, content: dict[str, Any]
) -> None:
    plain = {"tasks": ["colours"], "include_path": content["score"]["include_path"]}

    def identity(**changes: Any) -> str:
        (task,) = matrix.expand(suite.load(write_suite(score=plain | changes))).tasks
        return json.dumps(task.identity.canonical(), sort_keys=True)

    found = [identity(), *(identity(**change) for change in TASK_CHANGES.values())]
    assert len(set(found)) == len(found)
    assert identity(seed=[0, 1234, 1234, 1234]) == identity(batch_size=3) == found[0]
    chat = content | {"score": plain | {"apply_chat_template": True}}
    (one,), (other,) = (
        matrix.expand(suite.load(write_suite(**chat, date=day))).tasks
        for day in ("2024-07-26", "2024-07-27")
    )
    assert one.identity != other.identity


def test_only_keeps_matching_cells(write_suite: WriteSuite) -> None:
    plan = matrix.expand(suite.load(write_suite()), ("*/baseline", "*lstsq"))
    assert [cell.name for cell in plan.cells] == ["tiny/baseline", "tiny/2/lstsq"]


def test_paper_preset_names_the_published_tasks(write_suite: WriteSuite) -> None:
    path = write_suite(score={"tasks": ["paper"]})
    tasks = suite.load(path).score.tasks  # type: ignore[union-attr]
    assert [task.task for task in tasks if task.average] == [
        "race",
        "winogrande",
        "piqa",
        "boolq",
        "openbookqa",
        "sciq",
    ]
    assert {task.task: task.num_fewshot for task in tasks}["winogrande"] == 5


def test_shipped_suites_are_valid() -> None:
    root = Path(__file__).parents[2]
    for path in (root / "suites").glob("*.yaml"):
        assert suite.load(path).name == yaml.safe_load(path.read_text())["name"] == path.stem


def test_suites_behind_results_are_valid(tmp_path: Path) -> None:
    """But for their texts, which are not in the repository."""
    root = Path(__file__).parents[2]
    for name in ("wiki", "own", "both"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "once"}\n')
    paths = sorted((root / "results" / "heal").glob("*.yaml"))
    for path in paths:
        here = tmp_path / path.name
        told = (
            path.read_text()
            .replace("../../suites", str(root / "suites"))
            .replace("include_path: real", f"include_path: {tmp_path}")
        )
        here.write_text(told)
        assert suite.load(here).name == path.stem
    assert paths


def test_what_is_known_by_name_alone_is_said(write_suite: WriteSuite, tmp_path: Path) -> None:
    assert not list_known_by_name(matrix.expand(suite.load(write_suite())))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "t.yaml").write_text("task: on_hub\ndataset_path: org/questions\n")
    score = {"tasks": ["sciq", "on_hub"], "include_path": str(tmp_path / "tasks")}
    path = write_suite(
        models=["org/model"], calibration={"dataset": "org/text", "revision": "v1"}, score=score
    )
    version = metadata.version("lm_eval")
    assert list_known_by_name(matrix.expand(suite.load(path))) == [
        "model org/model@main",
        "calibration data org/text@v1",
        f"tasks of lm-eval {version} (sciq)",
        "data of tasks (on_hub: org/questions)",
    ]


@pytest.mark.parametrize(("said", "limit"), [("3", 3), ("1", 1), ("0.1", 0.1), ("1.0", 1)])
def test_limit_is_a_number_of_items_or_a_share(said: str, limit: float) -> None:
    found = Limit().convert(said, None, None)
    assert (found, type(found)) == (limit, type(limit))


@pytest.mark.parametrize("said", ["0", "-1", "1.5", "all", "nan", "inf"])
def test_what_is_no_limit_is_refused(said: str) -> None:
    with pytest.raises(click.BadParameter, match="no number of items and no share"):
        Limit().convert(said, None, None)
