"""Stages that score by checkpoint, write texts and serve, where workers of Ray do them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from bench.run.executors import Job, Local
from bench.run.executors.nodes import Nodes
from bench.run.ledger import Ledger
from bench.run.resume import NOTHING
from bench.run.runner import Run
from bench.store import Store
from bench.verbs.suite_options import expand_suite
from replaceme.errors import InputError
from tests.bench.clusters import ray_here
from tests.bench.results_left import left_by
from tests.bench.test_executors import ONE_THREAD, on_ray
from tests.bench.waiting import eventually, list_engines

TELL = {
    "task": "tell",
    "output_type": "generate_until",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "colours.jsonl"}},
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[0]}}",
    "generation_kwargs": {"max_gen_toks": 8, "until": ["\n"]},
    "metric_list": [{"metric": "exact_match"}],
    "metadata": {"version": 1},
}
LOAD = {"input_len": 16, "output_len": 4, "batch_size": 1}
SERVE = {"enforce_eager": True, "repeats": 1, "processes": 1, "kv_cache_gib": 0.0625}
WRITER = "bench.scoring.generation.worker"
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def write(task_folder: Path, write_small: Write, tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes a suite whose texts an engine writes, and which is scored checkpoint by checkpoint."""
    folder = tmp_path_factory.mktemp("tasks") / "tasks"
    shutil.copytree(task_folder, folder)
    (folder / "tell.yaml").write_text(yaml.safe_dump(TELL))
    score = {"tasks": ["colours", "endings", "tell"], "include_path": str(folder)}

    def write(**changes: Any) -> Path:
        own = {"method": "per-variant"} | changes.pop("score", {})
        return write_small(score=score | own, **changes)

    return write


def left_without_times(out: Path) -> dict[str, Any]:
    """What a run leaves, without how long engines took."""
    found = left_by(out)
    for name, record in found.items():
        if name.startswith("records/"):
            for task in record["quality"].values():
                if task["generation"]:
                    task["generation"].pop("seconds")
            for process in record["serving"]["processes"]:
                process["workloads"] = [each["workload"] for each in process["workloads"]]
                process.pop("start_seconds")
                process.pop("memory")
    return found


@pytest.mark.slow
def test_workers_of_ray_leave_what_this_process_leaves(call: Any, write: Write, tmp_path: Path) -> None:
    own = {"generated": {"tokens": 400}, "samples": 50, "max_length": 32}
    changes = {"calibration": own, "serve": SERVE | {"workloads": [LOAD]}}
    left = []
    for name, more in (("local", {}), ("ray", on_ray(2))):
        words = ("run", write(**changes, **more), "--out", tmp_path / name, "--only", "*/2/*")
        done = call(*words, env=ONE_THREAD)
        assert done.returncode == 0, done.stdout + done.stderr
        left.append(left_without_times(tmp_path / name))
    assert left[0] == left[1]
    records = [record for name, record in left[0].items() if name.startswith("records/")]
    assert len(records) == 2
    for record in records:
        methods = {name: task["method"] for name, task in record["quality"].items()}
        assert methods == {"colours": "per-variant", "endings": "per-variant", "tell": "texts"}
        assert record["quality"]["tell"]["generation"]["engine"] == "vllm"


def worker_above(process: psutil.Process) -> psutil.Process:
    """The worker of Ray that started a process."""
    return next(one for one in process.parents() if "RemoteWorker" in "".join(one.cmdline()))


@pytest.mark.slow
def test_engine_ends_with_its_worker_and_another_one_writes(
    command: str, write: Write, tmp_path: Path
) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors"
    path = write(score={"tasks": ["tell"]}, **on_ray(2))
    words = [command, "run", path, "--out", out, "--only", "*/baseline"]
    with errors.open("w") as stream:
        run = subprocess.Popen(
            words, env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL, stderr=stream
        )
    eventually(lambda: bool(list_engines(out, WRITER)) or run.poll() is not None, seconds=280)
    assert run.returncode is None, errors.read_text()
    (engine,) = list_engines(out, WRITER)
    family = [engine, *engine.parents()[:1], *engine.children(recursive=True)]
    worker_above(engine).kill()
    eventually(lambda: not any(one.is_running() for one in family), seconds=60)
    assert run.wait(timeout=280) == 0, errors.read_text()
    (record,) = Store(out).all().values()
    generation = record.quality["tell"].generation
    assert generation and (generation.engine, generation.texts) == ("vllm", 24)
    assert not list_engines(out, WRITER)


def test_engine_over_more_gpus_than_a_worker_has_is_refused(write: Write, tmp_path: Path) -> None:
    path = write(serve=SERVE | {"workloads": [LOAD], "tensor_parallel_size": 4})
    executor = Local()
    run = Run(Ledger(expand_suite(path, (), tmp_path, None)[0], tmp_path, NOTHING, executor))
    run.check_gpus()
    executor.gpus = 2.0
    with pytest.raises(InputError, match=r"tensor_parallel_size is 4, and a worker has 2 GPUs"):
        run.check_gpus()


# ---- alone on a machine


def note(folder: Path, name: str, seconds: float) -> None:
    """Leave the moments between which it was computed."""
    begun = time.time()
    time.sleep(seconds)
    (folder / name).write_text(f"{begun} {time.time()}")


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with ray_here(tmp_path_factory.mktemp("ray"), workers=2) as made:
        yield made


@pytest.mark.slow
def test_nothing_is_done_beside_a_job_that_is_to_be_alone(executor: Any, tmp_path: Path) -> None:
    names = ["a", "b", "alone-1", "c", "alone-2", "d"]
    jobs = [Job(note, (tmp_path, name, 1.0), exclusive="alone" in name) for name in names]
    beside = [Job(note, (tmp_path, f"beside-{number}", 0.5)) for number in range(8)]

    def run(some: list[Job]) -> None:
        assert not [outcome.error for _, outcome in executor.run(some, lambda *_: None) if outcome.error]

    executor.side_by_side([lambda: run(jobs), lambda: run(beside)])
    done = {file.name: [*map(float, file.read_text().split())] for file in tmp_path.iterdir()}
    assert len(done) == len(jobs) + len(beside)
    for name in ("alone-1", "alone-2"):
        begun, ended = done.pop(name)
        assert all(last <= begun or first >= ended for first, last in done.values()), (name, done)
    assert any(a < b < c for a, c in done.values() for b, _ in done.values())  # others were


def count(folder: Path, to: int) -> Iterator[int]:
    """Yield numbers behind those that are there; the first worker dies at the third."""
    kept = len([*folder.glob("kept-*")])
    for number in range(kept, to):
        yield number
        if number == 2:
            eventually(lambda: (folder / "kept-2").exists())
            if not kept:
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_job_that_resumes_gives_what_had_not_come(executor: Any, tmp_path: Path) -> None:
    found = []
    for _, outcome in executor.run([Job(count, (tmp_path, 6), resumes=True)], lambda *_: None):
        found.append(outcome.get())
        (tmp_path / f"kept-{found[-1]}").touch()
    assert found == [*range(6)]


@dataclass(eq=False)
class Placed:
    node: str | None


def test_machine_is_kept_until_nothing_is_done_there() -> None:
    nodes, (first, second, third) = Nodes(), map(Placed, ("a", "a", "b"))
    busy = [first, third, Placed("b")]
    assert nodes.keep(1, [second], busy) == []
    assert not nodes.is_open(second) and nodes.is_open(third)
    assert nodes.keep(1, [second, third], [first, third]) == []
    assert nodes.keep(1, [first, second], [third]) == [first, second]
    nodes.hand_over(1, 7)
    assert not nodes.is_open(first)
    assert nodes.keep(1, [third, second], [first]) == [third]
    assert nodes.keep(2, [third, second], [first]) == []
    nodes.release(1)
    nodes.release(7)
    assert nodes.is_open(first) and nodes.is_open(third)


def test_worker_that_has_not_said_where_it_is_is_taken_to_be_beside() -> None:
    nodes, (here, somewhere) = Nodes(), map(Placed, ("a", None))
    assert nodes.is_open(somewhere)
    assert nodes.keep(1, [here], [somewhere]) == []
    assert not nodes.is_open(somewhere)
    assert nodes.keep(1, [here, somewhere], []) == [here]


def test_another_machine_is_kept_where_the_one_that_was_is_gone() -> None:
    nodes, (gone, other) = Nodes(), map(Placed, ("a", "b"))
    assert nodes.keep(1, [gone], [gone, other]) == []
    assert nodes.keep(1, [other], []) == [other]
