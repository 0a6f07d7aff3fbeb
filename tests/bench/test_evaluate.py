"""``evaluate_model``: tasks of a published file, or the paper's, on a checkpoint."""

from __future__ import annotations

import json
import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.suite.suite import Suite
from bench.verbs.evaluate import Evaluation, evaluate_model, read

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "suites" / "demo"
PRUNING = "method: lstsq\nlayers_to_skip: 8\nlayers_to_skip: 4\nuse_4bit: True\nmodel_path: m\n"


def written(text: str) -> str:
    Path("config.yaml").write_text(text, "utf-8")
    return "config.yaml"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_file_of_the_pruning_commands_is_scored_on_its_tasks(tiny: Path) -> None:
    file = written(PRUNING + "tasks:\n    demo_facts:\n        fewshots: 0\n")
    flags = ["--model", str(tiny), "--include-path", str(DEMO), "--limit", "8"]
    result = CliRunner().invoke(evaluate_model, ["--config", file, *flags])
    assert result.exit_code == 0, result.output
    out = Path("benchmark_results") / tiny.name
    (record,) = (json.loads(path.read_text("utf-8")) for path in (out / "records").glob("*.json"))
    task = record["quality"]["demo_facts"]
    assert "0-shot, 8 items" in (out / "leaderboard.md").read_text("utf-8")
    assert by_lm_eval(tiny) == pytest.approx(
        {name: metric["value"] for name, metric in task["metrics"].items()}, abs=1e-6
    )


def by_lm_eval(model: Path) -> dict[str, float]:
    """The same by lm-eval's own program."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    with chdir(DEMO):  # its data files are relative
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args=f"pretrained={model},dtype=bfloat16,device=cpu",
            tasks=["demo_facts"],
            num_fewshot=0,
            limit=8,
            task_manager=TaskManager(include_path=str(DEMO)),
        )
    assert found is not None
    values = found["results"]["demo_facts"]
    return {
        name.partition(",")[0]: value
        for name, value in values.items()
        if "," in name and "stderr" not in name
    }


@pytest.mark.parametrize("said", ["", "tasks: default\n", "tasks: null\n"])
def test_the_default_is_the_published_choice_of_tasks(said: str) -> None:
    evaluation = read(Path(written(PRUNING + said)), "elsewhere")
    assert evaluation.model_path == "elsewhere"
    suite = Suite.model_validate(evaluation.suite(()))
    assert suite.score is not None
    shots = {task.task: task.num_fewshot for task in suite.score.tasks}
    assert shots.pop("winogrande") == 5
    zero = {"boolq", "race", "openbookqa", "piqa", "sciq", "lambada_openai"}
    assert shots == dict.fromkeys(zero)
    assert (suite.models[0].dtype, suite.score.dtype) == ("bfloat16", "bfloat16")


def test_a_list_of_names_has_the_examples_of_the_tasks_themselves() -> None:
    evaluation = Evaluation.model_validate({"model_path": "m", "tasks": ["boolq", "sciq"]})
    assert evaluation.tasks == {"boolq": None, "sciq": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_pth: m\n", r"config.yaml:1: model_pth: unknown key; did you mean 'model_path'"),
        ("tasks: {sciq: {fewshots: 0}}\n", r"model_path: this key is required"),
        ("model_path: m\ntasks: {sciq: 0}\n", r"config.yaml:2: tasks: sciq is to have \{fewshots: NUM"),
        ("model_path: ./nowhere\ntasks: [sciq]\n", r"model '.*nowhere': no such file or folder"),
        ("model_path: m\ntasks: [scieq]\n", r"'scieq'.*did you mean 'sciq'"),
        ("- model_path\n", r"the file must be a mapping"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str, message: str) -> None:
    result = CliRunner().invoke(evaluate_model, ["--config", written(text)])
    assert result.exit_code == 2
    assert re.search(message, result.stderr), result.stderr


def test_a_file_of_the_published_commands_is_no_suite(call_here: Any) -> None:
    result = call_here("plan", DEMO.parent / "published" / "uidl.yaml")
    assert result.returncode == 2
    assert "no suite but a file of the published commands; run it by 'run_replaceme" in result.stderr
    assert "uidl" not in call_here("list", "suites").stdout
