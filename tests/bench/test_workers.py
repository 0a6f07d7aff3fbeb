"""Processes forked from one that has imported the engine: what they leave, and that they all end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.serving.workers import ServingError, Workers, explain_failure
from tests.bench.small_worker import FOLDER
from tests.bench.waiting import eventually

pytest.importorskip("setproctitle")
MODULE = "tests.bench.small_worker"
PROGRAM = f"""
import sys; from pathlib import Path; from bench.serving.workers import Workers
folder = Path(sys.argv[1])
with Workers("{MODULE}") as workers:
    workers.run([folder, Path("hang")], folder / "log", 600)
"""


@pytest.fixture(autouse=True)
def _told_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(MODULE) as workers:
        yield workers


def list_marked(folder: Path, mark: str) -> list[int]:
    """Processes that left a mark."""
    return [int(file.name.rpartition("-")[2]) for file in folder.glob(f"{mark}-*")]


def all_gone(processes: list[int]) -> bool:
    return not any(map(psutil.pid_exists, processes))


def test_the_engine_is_imported_once_for_all_workers(workers: Workers, tmp_path: Path) -> None:
    for number in range(3):
        assert workers.run([tmp_path, Path("work")], tmp_path / f"log{number}", 30) == 0
        assert (tmp_path / f"log{number}").read_text() == "done\n"
    (server,) = list_marked(tmp_path, "import")
    assert len({*list_marked(tmp_path, "work")} - {server}) == 3
    workers.close()
    assert all_gone([server])


def test_a_worker_that_fails_or_dies_says_so_and_the_next_one_works(
    workers: Workers, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    assert workers.run([tmp_path, Path("fail")], log, 30) == 1
    assert explain_failure(1, log) == "ValueError: told to fail"
    assert workers.run([tmp_path, Path("die")], log, 30) == -signal.SIGKILL
    assert workers.run([tmp_path, Path("work")], log, 30) == 0
    assert len(list_marked(tmp_path, "import")) == 1


def test_a_worker_that_hangs_is_killed_and_the_next_one_works(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"did not finish within 3 s and was killed"):
        workers.run([tmp_path, Path("hang")], tmp_path / "log", 3)
    (worker,) = list_marked(tmp_path, "work")
    eventually(lambda: all_gone([worker]))
    assert workers.run([tmp_path, Path("work")], tmp_path / "log", 30) == 0


def test_an_engine_that_cannot_be_imported_is_explained(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "at-import").write_text("raise ImportError('no such kernel')")
    status = workers.run([tmp_path, Path("work")], tmp_path / "log", 30)
    assert explain_failure(status, tmp_path / "log") == "ImportError: no such kernel"


@pytest.mark.parametrize("at", ["import", "work"])
def test_all_processes_end_with_a_killed_parent(at: str, tmp_path: Path) -> None:
    if at == "import":
        (tmp_path / "at-import").write_text("time.sleep(600)")
    parent = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)])
    eventually(lambda: bool(list_marked(tmp_path, at)))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    processes = list_marked(tmp_path, "import") + list_marked(tmp_path, "work")
    assert len(processes) == (1 if at == "import" else 2)
    eventually(lambda: all_gone(processes))


def test_workers_end_with_the_process_that_forked_them(workers: Workers, tmp_path: Path) -> None:
    def kill_server() -> bool:
        for server in list_marked(tmp_path, "import") if list_marked(tmp_path, "work") else []:
            os.kill(server, signal.SIGKILL)
        return False

    status = workers.run([tmp_path, Path("hang")], tmp_path / "log", 30, kill_server)
    assert explain_failure(status, tmp_path / "log") == "The engine was killed by SIGKILL"
    eventually(lambda: all_gone(list_marked(tmp_path, "work")))
    assert workers.run([tmp_path, Path("work")], tmp_path / "log", 30) == 0
