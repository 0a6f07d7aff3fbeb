"""Clusters of Ray on this machine, for runs that join one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import psutil
from ray.util import get_node_ip_address

from bench.run.executors import Executor, make_executor
from bench.suite.executor import ExecutorSpec
from tests.bench.waiting import eventually

RAY = Path(sys.executable).with_name("ray")
OPEN = {"RAY_AUTH_MODE": "disabled"}  # else the token that this user has, which a run has to be told of


@dataclass
class Head:
    """The head node of a cluster, whose processes are children of one that waits for them."""

    process: subprocess.Popen[bytes]
    address: str

    def find(self, name: str) -> list[psutil.Process]:
        """Its processes of a kind, such as ``gcs_server``, ``raylet`` and ``RemoteWorker``."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if name in "".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found


@contextmanager
def cluster(cpus: int = 2, before: str = "true", **environment: str) -> Iterator[Head]:
    """A cluster of one node.

    Args:
        before: a command of shell that its processes find done, in file systems of their own.
        environment: of its processes.
    """
    port, folder = _free_port(), Path(tempfile.mkdtemp(dir="/tmp", prefix="ray-"))  # sockets: short
    start = f"--head --port {port} --temp-dir {folder} --include-dashboard false --num-cpus {cpus}"
    try:
        with _node(start, before, environment) as process:
            yield Head(process, f"{get_node_ip_address()}:{port}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def joined(head: Head, before: str = "true") -> Iterator[None]:
    """Another node of a cluster, with one CPU; ``before`` as there."""
    with _node(f"--address {head.address} --num-cpus 1", before, {}):
        yield


@contextmanager
def _node(start: str, before: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    shell = ["sh", "-c", f"{before} && exec {RAY} start --block {start}"]
    process = subprocess.Popen(
        shell if before == "true" else ["unshare", "--mount", *shell],
        env=os.environ | {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"} | OPEN | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        eventually(lambda: b"Ray runtime started" in _read_line(process), 100)
        yield process
    finally:
        left = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        for one in left:
            if one.is_running():
                one.kill()


@contextmanager
def ray_here(out: Path, workers: int) -> Iterator[Executor]:
    """Workers of Ray for this process, whose environment Ray changes, and others would inherit."""
    (out / "logs").mkdir()
    with patch.dict(os.environ):
        executor = make_executor(ExecutorSpec(name="ray", workers=workers, cpus=1), out)
        with closing(executor):
            yield executor


def _read_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout
    return process.stdout.readline()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
