"""Stages that fail: a row with the reason, the others go on, and what a second run does again."""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bench.console import chatter_to
from bench.records import Record
from bench.run.host import disk, environment
from bench.store import Store
from replaceme.amounts import format_bytes

pytestmark = pytest.mark.slow

WriteSuite = Callable[..., Path]
LABELS = ("baseline", "uidl", "lstsq")
SECRET = "correct-horse-battery-staple"
FAILING = """
import os
from pathlib import Path

def documents(data):
    if not Path(__file__).with_name("allowed").exists():
        raise LookupError(f"refused with {os.environ.get('MY_API_TOKEN')}")
    return data
"""


def by_label(out: Path) -> dict[str, Record]:
    return {record.label: record for record in Store(out).all().values()}


def reasons(out: Path) -> dict[str, list[str]]:
    """Label → the stages that failed."""
    return {
        label: [failure.stage for failure in record.failures] for label, record in by_label(out).items()
    }


def left(forked: Any, suite: Path, out: Path) -> dict[str, Any]:
    """Cell → what a run would do."""
    cells = json.loads(forked("plan", suite, "--out", out, "--json").stdout)["cells"]
    return {cell["cell"].rpartition("/")[2]: cell["left"] for cell in cells}


@pytest.fixture
def failing(task_folder: Path, tmp_path: Path) -> Path:
    """A folder with a task that fails as long as it holds no file ``allowed``."""
    folder = tmp_path / "tasks"
    shutil.copytree(task_folder, folder)
    (folder / "helper.py").write_text(FAILING)
    text = (folder / "endings.yaml").read_text()
    (folder / "endings.yaml").write_text(text + "process_docs: !function helper.documents\n")
    return folder


# ---- again, or not


def test_what_failed_is_left_alone_until_it_is_retried(
    forked: Any, write_suite: WriteSuite, failing: Path, tmp_path: Path
) -> None:
    score = {"tasks": ["endings", "colours"], "include_path": str(failing)}
    suite, out = write_suite(score=score), tmp_path / "out"
    first = forked("run", suite, "--out", out)
    assert first.returncode == 3
    assert reasons(out) == {key: ["score:endings"] for key in LABELS}
    before = {path: path.read_bytes() for path in (out / "records").iterdir()}
    (failing / "allowed").touch()
    second = forked("run", suite, "--out", out)
    assert second.returncode == 3
    assert second.stdout == first.stdout
    assert "tiny: " not in second.stderr
    assert "3 of 3 cells failed; the same command with --retry-failed tries them" in second.stderr
    assert before == {path: path.read_bytes() for path in (out / "records").iterdir()}
    third = forked("run", suite, "--out", out, "--retry-failed")
    assert third.returncode == 0, third.stdout
    assert "calibrating" not in third.stderr
    assert {record.status for record in by_label(out).values()} == {"complete"}
    assert not any(record.failures for record in by_label(out).values())


@pytest.mark.parametrize(
    ("call", "failing_calls"),
    [
        ("bench.scoring.one_pass.OnePass.answer_batches", [1]),
        ("bench.scoring.verify.try_few", [1, 2]),  # of both tasks, and then of the first
    ],
)
def test_task_that_cannot_be_answered_fails_alone(
    call_here: Any,
    write_suite: WriteSuite,
    task_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    failing_calls: list[int],
) -> None:
    """All that endings asks is what colours asks, which comes first."""
    original, calls = pkgutil.resolve_name(call), count(1)

    @wraps(original)
    def failing(*arguments: Any, **more: Any) -> Any:
        if next(calls) in failing_calls:
            raise ValueError("there is no answer")
        return original(*arguments, **more)

    monkeypatch.setattr(call, failing)
    score = {"tasks": ["colours", "endings"], "include_path": str(task_folder)}
    done = call_here("run", write_suite(score=score), "--out", tmp_path / "out")
    assert done.returncode == 3
    assert "there is no answer" in done.stdout
    assert reasons(tmp_path / "out") == {label: ["score:colours"] for label in LABELS}
    assert all([*record.quality] == ["endings"] for record in by_label(tmp_path / "out").values())


def test_plan_tells_what_failed(
    forked: Any, write_suite: WriteSuite, failing: Path, tmp_path: Path
) -> None:
    score = {"tasks": ["endings", "colours"], "include_path": str(failing)}
    suite, out = write_suite(score=score), tmp_path / "out"
    forked("run", suite, "--out", out, "--only", "*/uidl")
    lines = forked("plan", suite, "--out", out).stdout.splitlines()
    assert lines[0].split(maxsplit=1) == ["tiny/baseline", "prune, score:endings, score:colours"]
    assert (
        lines[1]
        .split(maxsplit=1)[1]
        .startswith("failed: score:endings (lm-eval fails at reading its items: refused with")
    )
    assert lines[3].startswith("3 cells, 0 done, 1 failed. ")
    assert "--retry-failed" in lines[4]
    cells = json.loads(forked("plan", suite, "--out", out, "--json").stdout)["cells"]
    assert [[*cell["failed"]] for cell in cells] == [[], ["score:endings"], []]
    assert left(forked, suite, out)["uidl"] == []


def test_failure_whose_inputs_changed_is_done_again(
    forked: Any, write_suite: WriteSuite, failing: Path, tmp_path: Path
) -> None:
    score: dict[str, Any] = {"tasks": ["endings", "colours"], "include_path": str(failing)}
    out, only = tmp_path / "out", ("--only", "*/uidl")
    assert forked("run", write_suite(score=score), "--out", out, *only).returncode == 3
    for change in ({"limit": 5}, {"batch_size": 3}, {"dtype": "bfloat16"}, {"method": "per-variant"}):
        suite = write_suite(score=score | change)
        assert "score:endings" in left(forked, suite, out)["uidl"], change
    assert left(forked, write_suite(score=score, name="other"), out)["uidl"] == []
    (failing / "helper.py").write_text("def documents(data):\n    return data\n")
    assert forked("run", write_suite(score=score), "--out", out, *only).returncode == 0


def test_failure_of_a_stage_that_the_suite_no_longer_has_is_forgotten(
    forked: Any, write_suite: WriteSuite, failing: Path, tmp_path: Path
) -> None:
    score = {"tasks": ["endings", "colours"], "include_path": str(failing)}
    out, only = tmp_path / "out", ("--only", "*/uidl")
    assert forked("run", write_suite(score=score), "--out", out, *only).returncode == 3
    less = write_suite(score=score | {"tasks": ["colours"]})
    assert forked("run", less, "--out", out, *only).returncode == 0
    assert by_label(out)["uidl"].status == "complete"


def test_failed_prune_is_left_alone_with_all_that_needs_it(
    forked: Any, write_suite: WriteSuite, tiny: Path, tmp_path: Path
) -> None:
    suite, out = write_suite(models=[str(with_nan(tiny, tmp_path / "tiny"))]), tmp_path / "out"
    assert forked("run", suite, "--out", out).returncode == 3
    assert left(forked, suite, out) == {"baseline": [], "uidl": [], "lstsq": []}
    again = forked("run", suite, "--out", out)
    assert again.returncode == 3
    assert "are not numbers" in again.stdout
    assert "calibrating" not in again.stderr
    assert "calibrating" in forked("run", suite, "--out", out, "--retry-failed").stderr


def test_failures_of_older_records_are_done_again(
    forked: Any, write_suite: WriteSuite, failing: Path, tmp_path: Path
) -> None:
    """Nothing says what they were tried with."""
    score = {"tasks": ["endings"], "include_path": str(failing)}
    suite, out = write_suite(score=score), tmp_path / "out"
    assert forked("run", suite, "--out", out, "--only", "*/uidl").returncode == 3
    (path,) = (out / "records").iterdir()
    content = json.loads(path.read_text())
    content["schema_version"] = 4
    content["failures"][0].pop("attempt")
    path.write_text(json.dumps(content))
    assert left(forked, suite, out)["uidl"] == ["score:endings"]


# ---- kinds


def test_solver_error_fails_its_cells_alone(
    call_here: Callable[..., Any],
    write_suite: WriteSuite,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def solve(*_: Any) -> None:
        raise ArithmeticError("the matrix is not what it was")

    monkeypatch.setattr("replaceme.solvers.lstsq.Lstsq.solve", solve)
    result = call_here("run", write_suite(), "--out", tmp_path / "out")
    assert result.returncode == 3
    assert reasons(tmp_path / "out") == {"baseline": [], "uidl": [], "lstsq": ["prune"]}
    failure = by_label(tmp_path / "out")["lstsq"].failures[0]
    assert failure.error == "the matrix is not what it was"
    assert failure.traceback and "ArithmeticError" in failure.traceback
    assert "prune: the matrix is not what it was" in result.stdout


@pytest.mark.parametrize("method", ["one-pass", "per-variant"])
def test_model_with_nan_weights_fails_instead_of_being_scored(
    forked: Any, write_suite: WriteSuite, tiny: Path, task_folder: Path, tmp_path: Path, method: str
) -> None:
    model = with_nan(tiny, tmp_path / "tiny")
    score = {"tasks": ["colours"], "include_path": str(task_folder), "method": method}
    suite, out = write_suite(models=[str(model)], score=score), tmp_path / "out"
    result = forked("run", suite, "--out", out)
    assert result.returncode == 3
    assert reasons(out) == {"baseline": ["score:colours"], "uidl": ["prune"], "lstsq": ["prune"]}
    for record in by_label(out).values():
        assert "NaN" in record.failures[0].error
        assert record.failures[0].traceback is None
        assert not record.quality


def test_given_blocks_of_a_model_with_nan_weights_fail_too(
    forked: Any, write_suite: WriteSuite, tiny: Path, tmp_path: Path
) -> None:
    model = with_nan(tiny, tmp_path / "tiny")
    prune = {"blocks": [[3, 5]], "solvers": ["refit"]}
    suite = write_suite(models=[str(model)], prune=prune, calibration={"samples": 4, "max_length": 32})
    forked("run", suite, "--out", tmp_path / "out")
    assert "its states on the calibration text are not numbers" in (
        by_label(tmp_path / "out")["refit"].failures[0].error
    )


def with_nan(model: Path, folder: Path) -> Path:
    """A copy of a model with a weight that is not a number."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("method", ["one-pass", "per-variant"])
def test_variant_with_nan_weights_fails_alone(
    forked: Any, write_suite: WriteSuite, task_folder: Path, tmp_path: Path, method: str
) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    score = {"tasks": ["colours"], "include_path": str(task_folder)}
    prune, out = {"layers": [2], "solvers": ["refit", "lstsq"]}, tmp_path / "out"
    assert forked("run", write_suite(prune=prune, score=score), "--out", out).returncode == 0
    (path,) = out.glob("edits/*refit*")
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    for values in tensors.values():
        values[0, 0] = float("nan")
    save_file(tensors, path, metadata)
    for folder in out.glob("checkpoints/*refit*"):
        shutil.rmtree(folder)
    score |= {"tasks": ["colours", "endings"], "method": method}
    result = forked("run", write_suite(prune=prune, score=score), "--out", out)
    assert result.returncode == 3
    assert reasons(out) == {"baseline": [], "refit": ["score:endings"], "lstsq": []}
    assert "the model answers with NaN" in result.stdout
    assert set(by_label(out)["lstsq"].quality) == {"colours", "endings"}


def test_model_that_is_gone_fails_only_what_is_left(
    forked: Any, write_suite: WriteSuite, tmp_path: Path
) -> None:
    """The hub cannot be reached in a test: a model there has no done stages to lose."""
    suite, out = write_suite(models=["nobody/nothing"]), tmp_path / "out"
    assert forked("run", suite, "--out", out).returncode == 3
    assert reasons(out) == {key: ["prune"] for key in LABELS}
    assert "cannot be had from the hub" in by_label(out)["baseline"].failures[0].error


# ---- secrets


def test_secrets_of_the_environment_reach_no_record_and_no_table(
    call: Callable[..., subprocess.CompletedProcess[str]],
    write_suite: WriteSuite,
    failing: Path,
    tmp_path: Path,
) -> None:
    score = {"tasks": ["endings"], "include_path": str(failing)}
    suite, out = write_suite(score=score), tmp_path / "out"
    secrets = {"MY_API_TOKEN": SECRET, "HF_TOKEN": "hf_" + "a1" * 17, "AWS_SECRET_ACCESS_KEY": "x" * 40}
    result = call("run", suite, "--out", out, "--only", "*/baseline", env=secrets)
    assert result.returncode == 3
    written = [path for folder in ("records", "samples") for path in out.glob(f"{folder}/*")]
    written += [*out.glob("leaderboard.*")]
    assert len(written) > 3
    texts = [path.read_bytes().decode(errors="replace") for path in written]
    for secret in secrets.values():
        assert not any(secret in text for text in [*texts, result.stdout, result.stderr])
    failure = by_label(out)["baseline"].failures[0]
    assert failure.error == "lm-eval fails at reading its items: refused with ***"
    assert failure.traceback and "refused with ***" in failure.traceback


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("at https://user:pa55word@proxy:8080/x", "at https://***@proxy:8080/x"),
        ("token hf_abcdefghijklmnopqrstuvwxyz is wrong", "token *** is wrong"),
        ("nothing to hide: a:b, hf_short, 10:30", "nothing to hide: a:b, hf_short, 10:30"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, clean: str) -> None:
    assert environment.mask_secrets(text) == clean


def test_environment_of_a_record_names_versions_and_machine_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_not_to_be_told")
    found = environment.describe(environment.Machine.here("cpu"))
    assert set(found) == {
        "python",
        "platform",
        "packages",
        "commit",
        "dirty",
        "device",
        "logical_cpus",
    }
    assert "hf_not_to_be_told" not in json.dumps(found)


# ---- full disks


def wrapped(error: Exception) -> Exception:
    """The error as libraries hand it on."""
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("an error occurred while generating the dataset") from inner
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device", "/x/y"), "/x/y: No space left on device"),
        (wrapped(OSError(122, "Disk quota exceeded")), "Disk quota exceeded"),
        (ValueError("I/O error: No space left on device (os error 28)"), "No space left on device"),
        (wrapped(ValueError("something else")), None),
        (OSError(13, "Permission denied", "/x/y"), None),
    ],
)
def test_full_disk_is_seen_however_it_is_wrapped(error: Exception, text: str | None) -> None:
    assert disk.describe_full(error) == text


def test_full_disk_inside_a_stage_ends_the_run_instead_of_failing_the_cell(
    call_here: Callable[..., Any],
    write_suite: WriteSuite,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def solve(*_: Any) -> None:
        raise wrapped(OSError(28, "No space left on device"))

    monkeypatch.setattr("replaceme.solvers.lstsq.Lstsq.solve", solve)
    result = call_here("run", write_suite(), "--out", tmp_path / "out")
    assert result.returncode == 2
    assert (
        "tiny/2/lstsq, prune: No space left on device; free some space and run again." in result.stderr
    )
    assert not any(record.failures for record in by_label(tmp_path / "out").values())


def test_log_on_a_full_disk_loses_chatter_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with chatter_to(Path("/dev/full")) as stderr:
        print("chatter " * 5000)
        print("chatter " * 5000, file=sys.stderr, flush=True)
        subprocess.run(["echo", "chatter"])
        print("progress", file=stderr)
    print("table")
    assert capfd.readouterr() == ("table\n", "progress\n")


@pytest.mark.parametrize("size", [0, 999, 1000, 123_456, 14_200_000_000])
def test_amounts_are_readable(size: int) -> None:
    expected = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 123_456: "123 kB", 14_200_000_000: "14.2 GB"}
    assert format_bytes(size) == expected[size]


def test_standard_output_that_is_full_is_an_error_after_everything_is_written_and_a_closed_one_is_not(
    command: str, write_suite: WriteSuite, tmp_path: Path
) -> None:
    suite, out = write_suite(prune={"layers": [2], "solvers": ["uidl"]}), tmp_path / "out"
    words = [command, "run", str(suite), "--out", str(out), "--only", "*/baseline"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith("Error: standard output cannot be written: No space left on device.\n")
    assert (out / "leaderboard.md").is_file()
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 0
    assert "Error" not in done.stderr
    assert "Records: " in done.stderr


def test_progress_that_nobody_reads_does_not_stop_a_run(
    command: str, write_suite: WriteSuite, tmp_path: Path
) -> None:
    suite, out = write_suite(), tmp_path / "out"
    words = [command, "run", str(suite), "--out", str(out), "--only", "*/uidl"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=write)
    os.close(write)
    assert by_label(out)["uidl"].status == "complete"
    assert done.returncode == 0
