"""Runs that are killed, interrupted, hold_lock out, or run out of disk: the same command goes on."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.run.host.lock import NAME, hold_lock
from bench.store import Store
from replaceme.errors import InputError
from tests.bench import waiting
from tests.bench.results_left import left_by
from tests.bench.waiting import list_engines

eventually = partial(waiting.eventually, seconds=60)
pytestmark = pytest.mark.slow

KILLS = 25
PLACES = [
    ("before a file is on the disk", 2),
    ("before a file is on the disk", 21),
    ("before a file has its name", 1),
    ("before a file has its name", 4),
    ("before a file has its name", 9),
    ("before a checkpoint has its name", 1),
    ("before a checkpoint has its name", 3),
    ("inside the weights", 7),
    ("inside the weights", 77),
    ("inside what a solver found", 2),
    ("inside the answers", 1),
    ("inside the answers", 4),
]
Suite = Callable[..., Path]


@pytest.fixture(scope="module")
def suite(small_suite: dict[str, Any], write_small: Suite) -> Suite:
    """Writes the small suite with changes: all of its cells have checkpoints, and many batches."""
    (model,) = small_suite["models"]
    return partial(
        write_small,
        models=[{"id": model, "dtype": "bfloat16"}],
        prune={"layers": [2], "solvers": ["lstsq", "refit"]},
        score=small_suite["score"] | {"batch_tokens": 64},
    )


@pytest.fixture(scope="module")
def plain(suite: Suite) -> Path:
    return suite()


@pytest.fixture(scope="module")
def whole(forked: Any, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    result = forked("run", plain, "--out", out)
    assert result.returncode == 0, result.stderr
    left = left_by(out)
    assert {name.split("/")[0] for name in left} >= {"records", "samples", "edits", "checkpoints"}
    return left


def processes(group: int) -> list[psutil.Process]:
    """Those of a process group that are not dead."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


# ---- killed


def test_run_killed_at_random_moments_ends_as_one_that_nothing_disturbs(
    forked: Any, plain: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    start = time.monotonic()
    assert forked("run", plain, "--out", tmp_path / "timed").returncode == 0
    duration = time.monotonic() - start
    moments, kills, runs, stages = random.Random(6), 0, 0, set()
    while kills < KILLS:
        runs, out = runs + 1, tmp_path / f"out-{runs}"
        while True:
            pid = forked.start("run", plain, "--out", out)
            time.sleep(moments.uniform(0, duration))
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
            result = forked.wait()
            eventually(lambda group=pid: not processes(group))
            if result.returncode == 0:
                break
            assert result.returncode == -signal.SIGKILL, result.stderr
            kills += 1
            stages.update(result.stderr.splitlines()[-1:])
        assert left_by(out) == whole
    assert len({line.partition("(")[0] for line in stages}) > 3, stages


@pytest.mark.parametrize(("place", "number"), PLACES, ids=lambda value: str(value))
def test_run_killed_while_it_writes_ends_as_one_that_nothing_disturbs(
    forked: Any, plain: Path, whole: dict[str, Any], tmp_path: Path, place: str, number: int
) -> None:
    out = tmp_path / "out"
    killed = forked("run", plain, "--out", out, fault=[place, number])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = forked("run", plain, "--out", out)
    assert again.returncode == 0, again.stderr
    assert left_by(out) == whole


@pytest.mark.parametrize(
    ("place", "number"), [("before a checkpoint has its name", 5), ("inside a removal", 2)], ids=str
)
def test_run_killed_while_it_removes_checkpoints_ends_as_one_that_nothing_disturbs(
    forked: Any, suite: Suite, tmp_path: Path, place: str, number: int
) -> None:
    path, out = suite(keep_checkpoints="none"), tmp_path / "out"
    assert forked("run", path, "--out", tmp_path / "whole").returncode == 0
    killed = forked("run", path, "--out", out, fault=[place, number])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [*out.glob("checkpoints/*")]
    assert forked("run", path, "--out", out).returncode == 0
    assert left_by(out) == left_by(tmp_path / "whole")
    assert not [*out.glob("checkpoints/*"), *out.glob("checkpoints/.*")]


def test_finished_cells_are_not_touched_by_the_run_that_goes_on(
    forked: Any, plain: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    forked.start("run", plain, "--out", out)
    forked.until("endings")
    os.kill(forked.pid, signal.SIGKILL)
    forked.wait()
    done = {path: path.stat().st_mtime_ns for path in out.glob("checkpoints/*/*.safetensors")}
    assert len(done) == 3
    again = forked("run", plain, "--out", out)
    assert "[0/3]" in again.stderr
    assert "calibrating" not in again.stderr
    assert done == {path: path.stat().st_mtime_ns for path in done}


# ---- interrupted


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM], ids=lambda kind: kind.name)
@pytest.mark.parametrize("stage", ["calibrating", "fitting", "loading for scoring", "endings"])
def test_interrupted_run_keeps_what_is_done_and_prints_the_table_so_far(
    forked: Any, plain: Path, whole: dict[str, Any], tmp_path: Path, stage: str, kind: int
) -> None:
    out = tmp_path / "out"
    forked.start("run", plain, "--out", out)
    forked.until(stage)
    os.kill(forked.pid, kind)
    result = forked.wait()
    assert result.returncode == 130, result.stderr
    assert "Interrupted; the same command continues where it stopped." in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    known = {record.label for record in Store(out).all().values()}
    assert known == {line.split()[0] for line in result.stdout.splitlines() if line.split()[:1]} & {
        "baseline",
        "lstsq",
        "refit",
    }
    assert not (out / NAME).exists()
    if stage == "endings":
        assert len(known) == 3
        assert forked("run", plain, "--out", out).returncode == 0
        assert left_by(out) == whole


@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("number", [1, 2])
def test_interrupted_run_ends_where_a_library_swallows_the_interruption(
    forked: Any, plain: Path, whole: dict[str, Any], tmp_path: Path, kind: str, number: int
) -> None:
    out, fault = tmp_path / "out", [f"{kind} that a library swallows", number]
    result = forked("run", plain, "--out", out, fault=fault)
    assert result.returncode == 130, result.stderr
    assert "failed" not in result.stderr
    assert forked("run", plain, "--out", out).returncode == 0
    assert left_by(out) == whole


def test_run_in_the_background_of_a_shell_ignores_ctrl_c_as_its_shell_wants(
    forked: Any, plain: Path, tmp_path: Path
) -> None:
    forked.start("run", plain, "--out", tmp_path / "out", ignored=[signal.SIGINT])
    forked.until("calibrating")
    os.kill(forked.pid, signal.SIGINT)
    assert forked.wait().returncode == 0


# ---- serving


@pytest.fixture(scope="module")
def served(suite: Suite) -> Callable[..., Path]:
    """Writes a suite that serves."""
    load = {"input_len": 16, "output_len": 8, "batch_size": 1}
    settings = {"enforce_eager": True, "repeats": 2, "processes": 1, "kv_cache_gib": 0.0625}

    def write(**changes: Any) -> Path:
        return suite(serve=settings | {"workloads": [load]} | changes)

    return write


def test_run_killed_while_an_engine_serves_leaves_no_process_and_goes_on(
    forked: Any, served: Callable[..., Path], tmp_path: Path
) -> None:
    path, out = served(), tmp_path / "out"
    pid = forked.start("run", path, "--out", out, "--only", "*/lstsq")
    eventually(lambda: "vLLM" in "".join(log.read_text() for log in out.glob("logs/serve-*")))
    (worker,) = list_engines(out)
    family = [worker, *worker.children(recursive=True)]
    os.kill(pid, signal.SIGKILL)
    assert forked.wait().returncode == -signal.SIGKILL
    eventually(lambda: not any(process.is_running() for process in family) and not processes(pid))
    assert not list_engines(out)
    again = forked("run", path, "--out", out, "--only", "*/lstsq")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "[0/1]" in again.stderr
    (record,) = Store(out).all().values()
    assert record.status == "complete"
    assert record.serving
    assert not [*out.glob("logs/serving-*")]
    assert not list_engines(out)


def test_interrupt_while_an_engine_serves_ends_it(
    forked: Any, served: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    forked.start("run", served(), "--out", out, "--only", "*/baseline")
    forked.until("serving with vllm")
    eventually(lambda: bool(list_engines(out)))
    os.kill(forked.pid, signal.SIGINT)
    result = forked.wait()
    assert result.returncode == 130
    assert "baseline" in result.stdout
    assert not list_engines(out)
    assert not Store(out).all().popitem()[1].failures


def test_engine_that_hangs_fails_the_cells_of_its_shape_alone(
    forked: Any, served: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = forked("run", served(timeout=1), "--out", out)
    assert result.returncode == 3
    assert result.stdout.count("serve: The engine did not finish within 1 s and was killed") == 3
    assert len([*out.glob("logs/serve-*")]) == 2
    for record in Store(out).all().values():
        assert set(record.quality) == {"colours", "endings"}
        assert [failure.stage for failure in record.failures] == ["serve"]
    assert not list_engines(out)


def test_engine_that_crashes_is_a_row_with_its_reason(
    forked: Any, served: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    forked.start("run", served(), "--out", out, "--only", "*/baseline")
    eventually(lambda: bool(list_engines(out)))
    list_engines(out)[0].kill()
    result = forked.wait()
    assert result.returncode == 3
    assert "serve: The engine was killed by SIGKILL" in result.stdout
    (record,) = Store(out).all().values()
    assert set(record.quality) == {"colours", "endings"}


# ---- two runs


def test_second_run_on_a_folder_is_refused_and_told_who_uses_it(
    forked: Any, refused: Callable[..., None], plain: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with hold_lock(out):
        since = json.loads((out / NAME).read_text())["since"]
        result = forked("run", plain, "--out", out)
        who = f"process {os.getpid()} on {platform.node()} since {since}"
        refused(result, f"another run is using {out}: {who}; wait for it, or choose another --out.")
        with pytest.raises(InputError, match="another run is using"), hold_lock(out):
            pass
        assert [path.name for path in out.iterdir()] == [NAME]
        refused(forked("verify", plain, "--cell", "tiny/baseline", "--out", out), who)
    assert not (out / NAME).exists()


def test_report_and_plan_are_free_to_read_while_a_run_writes(
    call_here: Callable[..., Any], plain: Path, tmp_path: Path
) -> None:
    with hold_lock(tmp_path):
        assert call_here("plan", plain, "--out", tmp_path).returncode == 0


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


STALE: dict[str, Callable[[], str]] = {
    "of a dead process": lambda: json.dumps(
        {"pid": dead_process(), "host": platform.node(), "since": "x", "started": time.time()}
    ),
    "of a process id that another has now": lambda: json.dumps(
        {"pid": os.getpid(), "host": platform.node(), "since": "x", "started": time.time() - 10**6}
    ),
    "empty": lambda: "",
    "damaged": lambda: '{"pid": 1, "ho',
    "of another kind": lambda: "[1]",
}


@pytest.mark.parametrize("content", STALE.values(), ids=STALE.keys())
def test_stale_lock_is_taken_over(tmp_path: Path, content: Callable[[], str]) -> None:
    (tmp_path / NAME).write_text(content())
    with hold_lock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / NAME).exists()


def test_lock_of_another_machine_is_refused_with_the_file_to_remove(
    forked: Any, refused: Callable[..., None], plain: Path, tmp_path: Path
) -> None:
    lock = {"pid": 7, "host": "elsewhere", "since": "2026-11-25T09:00:00+00:00", "started": 1.0}
    (tmp_path / NAME).write_text(json.dumps(lock))
    result = forked("run", plain, "--out", tmp_path)
    refused(
        result, "process 7 on elsewhere since 2026-11-25", f"if that is over, remove {tmp_path / NAME};"
    )
    assert json.loads((tmp_path / NAME).read_text()) == lock


# ---- disk


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[int], bool]]:
    """A disk of ``size`` bytes at ``folder``; yields what changes its size, which returns whether there
    is such a disk: only root may make one."""
    folder.mkdir()

    def resize(size: int, option: str = "remount,") -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"{option}size={size}", "tmpfs", str(folder)]
        there = shutil.which("mount") is not None
        return there and subprocess.run(command, capture_output=True).returncode == 0

    mounted = resize(size, "")
    try:
        yield resize if mounted else lambda _: False
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def test_disk_that_fills_up_anywhere_ends_the_run_and_harms_nothing(
    forked: Any, plain: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    """The disk grows by a few pages from run to run, until one can end.

    Where no disk can be made, the size of a file is limited instead.
    """
    folder = tmp_path / "disk"
    out, told = folder / "out", []
    needed = json.loads(forked("plan", plain, "--out", out, "--json").stdout)["disk"]["bytes"]
    with small_disk(folder, needed + 4096) as resize:
        disk, limits = resize(needed + 4096), iter([2**14, 2**16, 2**19])
        for step in range(1, 100):
            limit = {} if disk else {"file_limit": next(limits, 2**30)}
            result = forked("run", plain, "--out", out, **limit)
            if result.returncode == 0:
                break
            assert result.returncode == 2, result.stdout + result.stderr
            assert "Traceback" not in result.stderr
            told.append(result.stderr.splitlines()[-1])
            assert told[-1].startswith("Error: ")
            reasons = ("No space left on device", "File too large", "has too little space")
            assert any(reason in told[-1] for reason in reasons), told
            assert {record.status for record in Store(out).all().values()} <= {"started", "complete"}
            resize(needed + 4096 * (1 + 4 * step))
        assert result.returncode == 0
        kinds = {line.partition("/out/")[2].partition("/")[0].partition(".")[0] for line in told}
        assert kinds >= {"checkpoints", "records" if disk else "edits"}, told
        assert left_by(out) == whole


def test_run_that_does_not_fit_on_its_disk_is_refused_before_it_starts(
    call_here: Callable[..., Any],
    refused: Callable[..., None],
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.run.host.disk.free", lambda _: 1_000_000)
    result = call_here("run", plain, "--out", tmp_path / "out")
    refused(result, "has too little space: the run writes up to", "and 1.0 MB are free")
    assert not [*(tmp_path / "out").iterdir()]


def test_estimate_of_the_disk_is_what_checkpoints_and_fits_take(
    forked: Any, suite: Suite, tmp_path: Path
) -> None:
    solvers = ["uidl", "lstsq", "refit", "reconstruct"]
    path, out = suite(prune={"layers": [2, 4], "solvers": solvers}), tmp_path / "out"
    text = forked("plan", path, "--out", out).stdout
    needed = json.loads(forked("plan", path, "--out", out, "--json").stdout)["disk"]
    assert "Checkpoints take up to" in text
    assert forked("run", path, "--out", out).returncode == 0
    weights = sum(file.stat().st_size for file in out.glob("checkpoints/*/*.safetensors"))
    edits = sum(file.stat().st_size for file in out.glob("edits/*"))
    records = Store(out).all().values()
    assert weights == sum(record.prune.checkpoint_bytes for record in records if record.prune)
    assert weights + edits < 1.01 * needed["bytes"] < 1.1 * (weights + edits)
    assert json.loads(forked("plan", path, "--out", out, "--json").stdout)["disk"]["bytes"] == 0


def test_disk_for_a_hub_model_is_known_when_it_has_been_downloaded(
    call: Callable[..., Any], small_suite: dict[str, Any], suite: Suite, tmp_path: Path
) -> None:
    repository = tmp_path / "hub" / "models--acme--tiny"
    shutil.copytree(small_suite["models"][0], repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")

    def space(model: str) -> dict[str, Any]:
        plan = call("plan", suite(models=[model]), "--json", env={"HF_HOME": str(tmp_path)})
        found: dict[str, Any] = json.loads(plan.stdout)["disk"]
        return found

    here = space("acme/tiny")
    assert here["bytes"] == space(small_suite["models"][0])["bytes"] > 10**6
    assert here["unknown"] == []
    (repository / "snapshots" / "abc" / "model.safetensors").unlink()
    without = space("acme/tiny")
    assert without == here | {"bytes": 0, "unknown": ["acme/tiny"], "free": without["free"]}


def test_model_that_is_not_here_is_of_unknown_size(call_here: Callable[..., Any], suite: Suite) -> None:
    result = call_here("plan", suite(models=["some-body/no-such-model"]), "--out", "/nowhere")
    assert "Not on this machine, so of unknown size: some-body/no-such-model." in result.stdout
