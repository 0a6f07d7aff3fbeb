"""``report --format lm-eval`` against the files that lm-eval writes, read by lm-eval's own code."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.utils import (
    get_file_datetime,
    get_file_task_name,
    get_latest_filename,
    get_results_filenames,
    get_sample_results_filenames,
    hash_string,
    make_table,
    sanitize_model_name,
)

from bench.records import Record
from bench.render import lm_eval_format
from bench.results import open_results
from bench.store import Store
from bench.tasks.identity import TaskIdentity
from tests.bench import cells

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[..., None]
Content = dict[str, Any]
DEMO = Path(__file__).parent / "samples" / "demo"
FILTERS = [
    {
        "name": name,
        "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}],
    }
    for name, pattern in {"strict": r"#### (\d+)", "loose": r"(\w+)"}.items()
]
TASKS: dict[str, Content] = {
    "colours_named": {
        "task_alias": "Colours, and “so on” é",
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "num_fewshot": 1,
        "fewshot_split": "test",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "words": {
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "filter_list": FILTERS,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}
OF_THE_RUN = {"model_args", "model_revision", "model_sha", "batch_size", "bootstrap_iters", "device"}


@pytest.fixture(scope="module")
def tasks(task_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    for name, changes in TASKS.items():
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(task_folder / "colours.jsonl")}},
            "test_split": "test",
            "doc_to_text": "{{question}}",
            "metadata": {"version": 1.0},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | changes))
    return folder


@pytest.fixture(scope="module")
def run(
    call_here: Call, small_suite: Content, tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A result folder of a baseline and a pruned variant."""
    folder = tmp_path_factory.mktemp("written")
    score = {"tasks": [*TASKS], "include_path": str(tasks), "batch_tokens": 512, "limit": 7}
    score["generate"] = "transformers"
    prune = {"layers": [2], "solvers": ["uidl"]}
    suite = folder / "suite.yaml"
    suite.write_text(yaml.safe_dump(small_suite | {"prune": prune, "score": score}))
    done = call_here("run", suite, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def written(call_here: Call, run: Path) -> Path:
    done = call_here("report", run, "--format", "lm-eval", "-o", run.parent / "out")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return run.parent / "out"


@pytest.fixture(scope="module")
def theirs(
    run: Path, tiny: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Name of a cell → the folder that lm-eval's own command writes about the same checkpoint."""
    from lm_eval.__main__ import cli_evaluate

    out = tmp_path_factory.mktemp("theirs")
    (pruned,) = (run / "checkpoints").glob("*-2-uidl-*")
    for path in (tiny, pruned):
        model = f"pretrained={path},dtype=float32"
        words = [
            *("lm_eval", "--model", "hf", "--model_args", model, "--tasks", ",".join(TASKS)),
            *("--include_path", str(tasks), "--output_path", str(out), "--log_samples"),
            *("--limit", "7", "--device", "cpu", "--batch_size", "1"),
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words)
            cli_evaluate()
    return {
        "tiny": out / sanitize_model_name(str(tiny)),
        "tiny-2-uidl": out / sanitize_model_name(str(pruned)),
    }


def results_in(folder: Path) -> Content:
    (path,) = get_results_filenames([str(path) for path in folder.iterdir()])
    return dict(json.loads(Path(path).read_text("utf-8")))


def samples_in(folder: Path, task: str) -> list[Content]:
    """As the visualisers of lm-eval find them."""
    found = get_sample_results_filenames([path.as_posix() for path in folder.iterdir()])
    path = get_latest_filename([name for name in found if get_file_task_name(Path(name).name) == task])
    return [json.loads(line) for line in Path(path).read_text("utf-8").split("\n") if line]


def close(value: Any) -> Any:
    """The same, but that its numbers need not be equal to the last digit."""
    if isinstance(value, dict):
        return {key: close(item) for key, item in value.items()}
    if isinstance(value, list):
        return [close(item) for item in value]
    try:
        return pytest.approx(float(value), rel=2e-5, abs=1e-5)
    except (TypeError, ValueError):
        return value


def numbers(value: Any) -> Any:
    """The same, with numbers for texts that are numbers."""
    if isinstance(value, list):
        return [numbers(item) for item in value]
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


@pytest.mark.parametrize("cell", ["tiny", "tiny-2-uidl"])
def test_results_are_those_that_lm_eval_writes(
    written: Path, theirs: dict[str, Path], cell: str
) -> None:
    ours, right = results_in(written / cell), results_in(theirs[cell])
    right.pop("pretty_env_info")
    assert ours.keys() == right.keys()
    assert ours["config"].keys() == right["config"].keys()
    same = ("group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples", "task_hashes")
    tokenizer = [key for key in right if key.startswith("tokenizer_")]
    for key in (*same, *tokenizer, "eot_token_id", "max_length", "lm_eval_version"):
        assert ours[key] == right[key], key
    for task, metrics in right["results"].items():
        exact = {key: found for key, found in metrics.items() if "perplexity_stderr" not in key}
        assert ours["results"][task].keys() == metrics.keys()
        assert {key: ours["results"][task][key] for key in exact} == close(exact)
    for key in right["config"].keys() - OF_THE_RUN:
        assert ours["config"][key] == right["config"][key], key


@pytest.mark.parametrize("cell", ["tiny", "tiny-2-uidl"])
@pytest.mark.parametrize("task", TASKS)
def test_samples_are_those_that_lm_eval_writes(
    written: Path, theirs: dict[str, Path], cell: str, task: str
) -> None:
    ours, right = samples_in(written / cell, task), samples_in(theirs[cell], task)
    assert len(ours) == len(right) == 7 * (2 if task == "words" else 1)
    for sample, expected in zip(ours, right, strict=True):
        assert [*sample] == [*expected]
        answers = ("resps", "filtered_resps")
        assert all(numbers(sample[key]) == close(expected[key]) for key in answers)
        rest = {key: value for key, value in expected.items() if key not in answers}
        assert {key: sample[key] for key in rest} == rest | {
            key: close(rest[key]) for key in rest["metrics"]
        }


def test_settings_of_tasks_are_lm_evals_but_for_paths(written: Path, theirs: dict[str, Path]) -> None:
    ours, right = (results_in(f)["configs"] for f in (written / "tiny", theirs["tiny"]))
    for task, config in right.items():
        metadata = config.pop("metadata")
        kept = ours[task].pop("metadata")
        assert kept == {"version": metadata["version"], "config_source": f"{task}.yaml"}
        assert ours[task] == config


def test_lm_eval_prints_the_table_of_the_record(written: Path, run: Path) -> None:
    (record,) = [r for r in Store(run).all().values() if r.label == "uidl"]
    table = make_table(results_in(written / "tiny-2-uidl"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    shown, name = {}, ""
    for row in rows:
        name = row[0] or name
        shown[name, row[4] if row[2] == "none" else f"{row[4]},{row[2]}"] = row[6]
    alias = {"colours_named": TASKS["colours_named"]["task_alias"]}
    assert shown == {
        (alias.get(task, task), label): f"{metric.value:.4f}"
        for task, found in record.quality.items()
        for label, metric in found.metrics.items()
    }


def test_hashes_are_of_what_is_written(written: Path) -> None:
    for sample in samples_in(written / "tiny", "colours_named"):
        assert sample["prompt_hash"] == hash_string(sample["arguments"]["gen_args_0"]["arg_0"])
        assert sample["target_hash"] == hash_string(sample["target"])
        assert sample["doc_hash"] == hash_string(json.dumps(sample["doc"], indent=2, ensure_ascii=False))


def test_questions_are_kept_once_for_all_variants(run: Path) -> None:
    assert len([*(run / "questions").iterdir()]) == len(TASKS)
    assert len([*(run / "responses").glob("*/*")]) == 2 * len(TASKS)
    for path in (run / "questions").iterdir():
        assert str(run.parent) not in gzip.decompress(path.read_bytes()).decode()


# ---- other results


def test_older_records_give_what_they_hold(call: Call, tmp_path: Path) -> None:
    done = call("report", DEMO, "--format", "lm-eval", "-o", tmp_path / "out")
    assert done.returncode == 0
    assert done.stderr.startswith("16 of 16 cells were scored without keeping what was asked")
    folder = tmp_path / "out" / "SmolLM2-135M-Instruct-6-refit"
    (path,) = folder.iterdir()
    assert get_file_datetime(path.name) == "2026-11-25T13-46-01.000000.json"
    (record,) = [r for r in Store(DEMO).all().values() if (r.layers, r.label) == (6, "refit")]
    found = results_in(folder)
    value = record.quality["demo_facts"].metrics["acc"].value
    assert found["results"]["demo_facts"]["acc,none"] == value
    assert f"|{value:.4f}|" in make_table(found).replace(" ", "")
    assert found["n-samples"]["demo_facts"] == {"original": None, "effective": 400}


def test_results_in_git_come_with_their_samples(
    call_here: Call,
    run: Path,
    written: Path,
    tmp_path: Path,
    commit: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for part in ("records", "questions", "responses"):
        shutil.copytree(run / part, tmp_path / "kept" / part)
    commit("kept")
    monkeypatch.chdir(tmp_path)
    (stem,) = [path.stem for path in (run / "records").glob("*-2-uidl-*")]
    for source in ("HEAD:kept", f"HEAD:kept/records/{stem}.json"):
        out = tmp_path / "out" / str(len(source))
        done = call_here("report", source, "--format", "lm-eval", "-o", out)
        assert (done.returncode, done.stderr) == (0, "")
        cell = "tiny-2-uidl"
        assert samples_in(out / cell, "words") == samples_in(written / cell, "words")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([DEMO], "name it with -o"),
        ([DEMO, "-o", "README.md"], "name it with -o"),
        ([DEMO, "-o", "out", "--published"], "goes with no option but -o"),
        ([DEMO, "-o", "out", "--sort", "average"], "goes with no option but -o"),
        (["paper-main", "-o", "out"], "paper-main does not exist"),
        ([DEMO, DEMO, "-o", "out"], "SmolLM2-135M-Instruct is in"),
    ],
)
def test_what_cannot_be_written_is_refused(
    call_here: Call,
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[Any],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").touch()
    refused(call_here("report", "--format", "lm-eval", *arguments), said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["cut", "other", "lost"])
def test_damaged_answers_are_named(
    call_here: Call, refused: Refused, run: Path, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(run, tmp_path / "run")
    (path,) = (tmp_path / "run" / "responses").glob("*-2-uidl-*/words-*")
    content = path.read_bytes()
    changed = {
        "cut": content[: len(content) // 2],
        "other": b"not a gzip file",
        "lost": gzip.compress(gzip.decompress(content) + b'{"doc_id":99}\n'),
    }
    path.write_bytes(changed[damage])
    done = call_here("report", tmp_path / "run", "--format", "lm-eval", "-o", tmp_path / "out")
    refused(done, path.name, "is damaged")


@pytest.mark.parametrize("name", ["..", "a/b", "../../x", *cells.HOSTILE])
def test_names_of_others_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    record = Record.model_validate_json(next((DEMO / "records").glob("*baseline*")).read_text("utf-8"))
    record.model = name
    record.quality = {name: record.quality["demo_facts"]}
    record.quality[name].identity = TaskIdentity()
    store = Store(tmp_path / "results")
    store.write("x", record)
    lm_eval_format.write([open_results(str(store.folder))], tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("results_*.json")
    assert path.parent.parent == tmp_path / "out"
    assert json.loads(path.read_text("utf-8"))["model_name_sanitized"] == path.parent.name
