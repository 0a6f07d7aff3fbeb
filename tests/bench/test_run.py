"""``replaceme-bench run``: what it leaves behind, and what the same command does again."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.records import Record
from bench.store import Store

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]
WriteSuite = Callable[..., Path]


def stable(out: Path) -> dict[str, Any]:
    """What records say, without times, memory and the order of runs."""
    found = {}
    for stem, record in Store(out).all().items():
        content = record.model_dump(mode="json", exclude={"updated", "environment", "runtime"})
        for key in ("solve_seconds", "calibration_seconds", "peak_memory_bytes"):
            content["prune"].pop(key)
        for task in content["quality"].values():
            for key in ("seconds", "pass_seconds", "pass_variants", "peak_memory_bytes"):
                task.pop(key)
        found[stem] = content, Store(out).read_samples(stem)
    return found


def by_label(out: Path) -> dict[str, Record]:
    return {record.label: record for record in Store(out).all().values()}


def heed_ctrl_c() -> None:
    """Tests that a shell runs in the background ignore it, and children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def running(command: str, suite: Path, out: Path, until: str) -> subprocess.Popen[str]:
    """A run that has just said on stderr that it does ``until``."""
    run = subprocess.Popen(
        [command, "run", suite, "--out", out],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    assert run.stderr
    assert any(until in line for line in run.stderr)
    return run


@pytest.fixture(scope="module")
def finished(
    call: Call, small_suite: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """A suite, its finished result folder, and what the run printed; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    suite = folder / "suite.yaml"
    suite.write_text(yaml.safe_dump(small_suite))
    result = call("run", suite, "--out", folder / "out")
    assert result.returncode == 0, result.stderr
    return suite, folder / "out", result


Finished = tuple[Path, Path, subprocess.CompletedProcess[str]]


def test_every_cell_gets_a_complete_record(finished: Finished) -> None:
    records = by_label(finished[1])
    assert set(records) == {"baseline", "uidl", "lstsq"}
    assert {record.status for record in records.values()} == {"complete"}
    for label, record in records.items():
        assert record.prune is not None
        assert record.environment["packages"]["torch"]
        assert record.quality["colours"].items == 24
        assert set(record.quality["colours"].metrics) == {"acc", "acc_norm"}
        assert set(record.quality["endings"].metrics) == {"acc", "perplexity"}
        assert (record.prune.blocks == []) == (label == "baseline")
    uidl, lstsq = records["uidl"].prune, records["lstsq"].prune
    assert uidl and lstsq and uidl.blocks == lstsq.blocks
    assert uidl.loss and lstsq.loss and uidl.loss[0] == uidl.loss[1] == lstsq.loss[0]
    assert uidl.intact_loss == lstsq.intact_loss != uidl.loss[0]
    assert uidl.held_back_tokens == lstsq.held_back_tokens == 32
    assert uidl.calibration_tokens == lstsq.calibration_tokens == 15 * 32
    assert lstsq.peak_memory_bytes and lstsq.peak_memory_bytes > 10**8
    assert lstsq.model_dump()["peak_device_memory_bytes"] is None
    assert uidl.relative_error and lstsq.relative_error
    assert lstsq.relative_error[1] < lstsq.relative_error[0] == uidl.relative_error[1]


def test_choice_of_blocks_is_told_once_for_all_solvers(finished: Finished) -> None:
    prune = by_label(finished[1])["lstsq"].prune
    assert prune and prune.runner_up
    (block,), (second,) = prune.blocks, prune.runner_up
    line = (
        f"tiny: removing [{block[0]}, {block[1]}). Chosen by angular at distance {prune.score:.4f}; "
        f"runner-up [{second[0]}, {second[1]}) at {prune.runner_up_score:.4f}."
    )
    assert finished[2].stderr.splitlines().count(line) == 1


def test_samples_hold_the_scores_of_every_item(finished: Finished) -> None:
    store = Store(finished[1])
    for stem, record in store.all().items():
        for name, task in record.quality.items():
            samples = store.read_samples(stem)[name]
            assert len(samples["doc_id"]) == task.items
            mean = sum(samples["acc"]) / task.items
            assert mean == pytest.approx(task.metrics["acc"].value)


def test_leaderboard_goes_to_stdout_and_progress_to_stderr(finished: Finished) -> None:
    result = finished[2]
    assert "baseline" in result.stdout
    assert "lstsq" in result.stdout
    assert "[0/9]" in result.stderr
    assert "calibrating" in result.stderr
    assert "Loading weights" not in result.stderr + result.stdout
    assert "\x1b" not in result.stdout + result.stderr


def test_chatter_of_libraries_goes_to_the_log(finished: Finished) -> None:
    assert "Tokenizing inputs" in (finished[1] / "logs" / "run.log").read_text()


def test_second_run_computes_nothing_and_prints_the_same_table(call: Call, finished: Finished) -> None:
    suite, out, first = finished
    before = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    again = call("run", suite, "--out", out)
    assert again.returncode == 0
    assert again.stdout == first.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}


def test_plan_says_what_is_left(call: Call, finished: Finished, tmp_path: Path) -> None:
    suite, out, _ = finished
    assert "3 cells, 3 done" in call("plan", suite, "--out", out).stdout
    fresh = json.loads(call("plan", suite, "--out", tmp_path, "--json").stdout)
    assert [cell["cell"] for cell in fresh["cells"]] == [
        "tiny/baseline",
        "tiny/2/uidl",
        "tiny/2/lstsq",
    ]
    assert fresh["cells"][1]["left"] == ["prune", "score:colours", "score:endings"]


def test_reports_hold_the_numbers_of_the_records(call: Call, finished: Finished) -> None:
    _, out, run = finished
    assert call("report", out).stdout == run.stdout
    table = json.loads(call("report", out, "--format", "json").stdout)
    assert table == json.loads((out / "leaderboard.json").read_text())
    rows = list(csv.DictReader((out / "leaderboard.csv").read_text().splitlines()))
    assert len(rows) == 3
    markdown = call("report", out, "--format", "markdown").stdout
    for label, record in by_label(out).items():
        accuracy = record.quality["colours"].metrics["acc_norm"].value
        line = next(line for line in markdown.splitlines() if label in line)
        assert f"{100 * accuracy:.1f}" in line


def test_report_can_be_written_to_a_file(call: Call, finished: Finished, tmp_path: Path) -> None:
    for kind in ("table", "csv"):
        path = tmp_path / f"board.{kind}"
        assert not call("report", finished[1], "--format", kind, "-o", path).stdout
        assert "lstsq" in path.read_text()


def test_editing_a_suite_reruns_only_what_changed(
    call: Call, finished: Finished, write_suite: WriteSuite, task_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[1], out)
    old = by_label(out)
    score = {"tasks": ["colours", "endings"], "include_path": str(task_folder)}
    solvers = ["uidl", {"name": "lstsq", "ridge": 0.5, "as": "ridge"}]
    suite = write_suite(score=score, prune={"layers": [2], "solvers": solvers})
    plan = json.loads(call("plan", suite, "--out", out, "--json").stdout)
    left = {cell["cell"]: cell["left"] for cell in plan["cells"]}
    assert left == {
        "tiny/baseline": [],
        "tiny/2/uidl": [],
        "tiny/2/ridge": ["prune", "score:colours", "score:endings"],
    }
    assert call("run", suite, "--out", out).returncode == 0
    new = by_label(out)
    assert new["uidl"].updated == old["uidl"].updated
    assert set(new) == {"baseline", "uidl", "lstsq", "ridge"}


def test_labels_and_counting_metrics_can_change_without_computing_anything(
    call: Call, finished: Finished, write_suite: WriteSuite, task_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[1], out)
    tasks = [{"task": "colours", "metric": "acc"}, {"task": "endings", "average": False}]
    score = {"tasks": tasks, "include_path": str(task_folder)}
    solvers = ["uidl", {"name": "lstsq", "as": "least squares"}]
    suite = write_suite(score=score, prune={"layers": [2], "solvers": solvers})
    assert call("run", suite, "--out", out).returncode == 0
    before, after = by_label(finished[1]), by_label(out)
    assert after["least squares"].updated == before["lstsq"].updated
    report = call("report", out).stdout
    assert "mean of colours (acc)," in report
    assert "least squares" in report
    wrong = {"tasks": [{"task": "colours", "metric": "f1"}], "include_path": str(task_folder)}
    result = call("run", write_suite(score=wrong), "--out", out)
    assert result.returncode == 2
    assert "does not report the metric 'f1'; it reports acc, acc_norm" in result.stderr
    assert by_label(out)["uidl"] == after["uidl"]


def test_changed_limit_rescores_but_does_not_prune_again(
    call: Call, finished: Finished, write_suite: WriteSuite, task_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished[1], tmp_path / "out")
    score = {"tasks": ["colours"], "include_path": str(task_folder), "limit": 5}
    result = call("run", write_suite(score=score), "--out", tmp_path / "out", "--only", "*/uidl")
    assert result.returncode == 0
    old, new = by_label(finished[1])["uidl"], by_label(tmp_path / "out")["uidl"]
    assert new.quality["colours"].items == 5
    assert new.prune == old.prune


def test_killed_run_goes_on_and_ends_with_the_same_records(
    call: Call, command: str, finished: Finished, tmp_path: Path
) -> None:
    suite, whole, _ = finished
    out = tmp_path / "out"
    for stage in ("uidl: fitting", "colours, 3 variants in one pass", "scores of endings"):
        run = running(command, suite, out, until=stage)
        time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert call("run", suite, "--out", out).returncode == 0
    assert stable(out) == stable(whole)


def test_interrupt_keeps_what_is_done_and_exits_with_130(
    command: str, finished: Finished, tmp_path: Path
) -> None:
    suite, out = finished[0], tmp_path / "out"
    run = running(command, suite, out, until="tiny: scores of endings")
    run.send_signal(signal.SIGINT)
    _, message = run.communicate()
    assert run.returncode == 130
    assert "Interrupted; the same command continues" in message
    assert "Traceback" not in message
    assert "colours" in by_label(out)["baseline"].quality


def test_limit_of_the_command_line_replaces_that_of_the_suite(
    call: Call, finished: Finished, tmp_path: Path
) -> None:
    suite, out = finished[0], tmp_path / "out"
    shutil.copytree(finished[1], out)
    result = call("run", suite, "--out", out, "--limit", 6, "--only", "*/baseline")
    assert result.returncode == 0, result.stderr
    assert by_label(out)["baseline"].quality["colours"].items == 6
    assert by_label(out)["uidl"].quality["colours"].items == 24
    assert "score:colours" in call("plan", suite, "--out", out, "--limit", 6).stdout


def test_failing_task_is_a_row_with_its_reason_and_the_others_go_on(
    call: Call, write_suite: WriteSuite, task_folder: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "tasks", tmp_path / "out"
    shutil.copytree(task_folder, folder)
    broken = (folder / "endings.yaml").read_text().replace("question", "no_such_field")
    (folder / "endings.yaml").write_text(broken)
    score = {"tasks": ["endings", "colours"], "include_path": str(folder)}
    result = call("run", write_suite(score=score), "--out", out)
    assert result.returncode == 3
    assert "score:endings" in result.stdout
    assert str(out / "logs" / "run.log") in result.stderr
    for record in Store(out).all().values():
        assert record.status == "failed"
        assert set(record.quality) == {"colours"}
        assert record.failures[0].traceback
    (folder / "endings.yaml").write_text((task_folder / "endings.yaml").read_text())
    assert call("run", write_suite(score=score), "--out", out).returncode == 0
    assert {record.status for record in Store(out).all().values()} == {"complete"}


def test_metric_that_a_task_does_not_report_is_named_with_those_it_does(
    call: Call, write_suite: WriteSuite, task_folder: Path, tmp_path: Path
) -> None:
    score = {"tasks": [{"task": "colours", "metric": "f1"}], "include_path": str(task_folder)}
    result = call("run", write_suite(score=score), "--out", tmp_path / "out", "--only", "*/baseline")
    assert result.returncode == 3
    assert "does not report the metric 'f1'; it reports acc, acc_norm" in result.stdout


def test_scores_equal_what_the_lm_eval_command_prints(
    finished: Finished, task_folder: Path, tmp_path: Path
) -> None:
    _, out, _ = finished
    store = Store(out)
    stem = next(stem for stem, record in store.all().items() if record.label == "lstsq")
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={out / 'checkpoints' / stem},dtype=float32"]
    command += ["--tasks", "colours,endings", "--include_path", ".", "--output_path", str(tmp_path)]
    command += ["--batch_size", "16"]
    subprocess.run(command, cwd=task_folder, check=True, capture_output=True)
    (path,) = tmp_path.rglob("results_*.json")
    theirs = json.loads(path.read_text())["results"]
    record = store.read(stem)
    assert record
    for name, task in record.quality.items():
        for metric, ours in task.metrics.items():
            exact = metric != "perplexity"  # a mean of log-likelihoods, which round
            assert ours.value == pytest.approx(
                theirs[name][f"{metric},none"], rel=1e-12 if exact else 1e-5
            )
            if metric != "perplexity":  # its error is bootstrapped
                assert ours.stderr == pytest.approx(theirs[name][f"{metric}_stderr,none"], rel=1e-12)


def test_prune_writes_the_checkpoint_that_run_writes(
    call: Call, finished: Finished, tiny: Path, tmp_path: Path
) -> None:
    arguments = ["--layers", 2, "--samples", 16, "--max-length", 32, "--device", "cpu"]
    arguments += ["--solver", "lstsq"]
    result = call("prune", tiny, "--out", tmp_path / "pruned", *arguments)
    assert result.returncode == 0, result.stderr
    assert "of 8" in result.stdout
    (folder,) = (finished[1] / "checkpoints").glob("*lstsq*")
    for name in ("model.safetensors", "config.json", "replaceme.json", "README.md"):
        assert (tmp_path / "pruned" / name).read_bytes() == (folder / name).read_bytes()


def test_list_shows_solvers_tasks_and_suites(call: Call) -> None:
    assert "lstsq.ridge" in call("list", "solvers").stdout
    assert call("list", "tasks", "winogrande").stdout.splitlines()[-1] == "winogrande"
    root = Path(__file__).parents[2]
    assert "suites/demo.yaml" in call("list", "suites", cwd=root).stdout
