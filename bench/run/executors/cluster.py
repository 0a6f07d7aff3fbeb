"""The machines that Ray has, or this one alone: which workers there is room for, and the workers."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from bench.run.executors.job import LostError
from bench.run.executors.remote import RemoteWorker, list_versions
from replaceme.amounts import format_bytes
from replaceme.errors import InputError, told

if TYPE_CHECKING:
    from bench.suite.executor import ExecutorSpec

START = 120.0  # seconds that a worker may take until it answers
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS = bytes([4])  # the kind of the frame that each side begins with, RFC 9113 section 3.4
TOKEN = "; RAY_AUTH_MODE and Ray's token must be those of the cluster"
ANSWER = 10.0  # seconds that a cluster may take to answer
NAMES = {"num_cpus": "CPU", "num_gpus": "GPU"}


class Cluster:
    """A cluster of Ray that was joined, or started on this machine.

    Attributes:
        ray: the module.
        workers: how many there are room for, or are wanted.
        device: where they compute.
    """

    def __init__(self, spec: ExecutorSpec, out: Path, device: str | None) -> None:
        """Join a cluster, or start one on this machine.

        Args:
            spec: where, how many workers, and what each has of a machine.
            out: the folder of the results, which all workers must see.
            device: of torch, that workers compute on; ``None``: their GPU if they have one.

        Raises:
            InputError: Ray is not installed, nothing answers at the address, or there is no room for the
                workers.
        """
        self.ray = _import_ray()
        _join(self.ray, spec)
        self.workers, self._resources = _divide(self.ray, spec)
        self.device = device or ("cuda" if self._resources["num_gpus"] else "cpu")
        self._out, self._started = out.absolute(), 0
        self._sockets = _find_sockets(self.ray)
        self._first: dict[str, Any] | None = None  # what a worker said of itself
        self._mark = self.logs / f".seen-{token_hex()}"  # no other folder has it
        self.logs.mkdir(parents=True, exist_ok=True)
        self._mark.touch()

    def start(self) -> tuple[Any, Any]:
        """A worker that starts, and Ray's reference to what it says of itself when it has."""
        self._started += 1
        log = self.logs / f"worker-{self._started}.log"
        make = self.ray.remote(**self._resources)(RemoteWorker)
        worker = make.remote(log, int(self._resources["num_cpus"]))
        return worker, worker.describe.remote(self._mark, self.device)

    @property
    def gpus(self) -> float | None:
        """Of a worker; ``None``: the cluster has none."""
        return self._resources["num_gpus"] or None

    @property
    def logs(self) -> Path:
        """The folder of what workers print."""
        return self._out / "logs"

    def check_all(self, answers: list[Any]) -> None:
        """Wait for workers to start.

        Args:
            answers: what they say of themselves.

        Raises:
            InputError: one does not start, or cannot be used.
        """
        ready, _ = self.ray.wait(answers, num_returns=len(answers), timeout=START)
        if len(ready) < len(answers):
            raise InputError(
                f"executor: {len(answers) - len(ready)} of {len(answers)} workers did not start "
                f"within {START:.0f} s; no machine has {_format(self._resources)} free."
            )
        for answer in answers:
            try:
                self.check(answer)
            except self.ray.exceptions.RayActorError as error:
                self.check_alive()
                raise self._refuse(error) from error

    def check(self, answer: Any) -> str:
        """The machine of a worker that has started.

        Raises:
            InputError: it does not see the folder, has other versions, or computes on something else
                than the others.
            RayActorError: it has died.
        """
        try:
            found: dict[str, Any] = self.ray.get(answer)
        except self.ray.exceptions.RayActorError:
            raise
        except self.ray.exceptions.RayError as error:
            raise self._refuse(error) from error
        where = f"executor: the worker on {found['place']}"
        if found["error"] or not found["sees"]:
            reason = f"cannot write into {self._out}: {found['error']}"
            if not found["error"]:
                reason = f"sees another folder at {self._out}"
            raise InputError(f"{where} {reason}; --out must name a folder that all machines share.")
        own = list_versions()
        for name, number in found["versions"].items():
            if number != own.get(name, number):
                raise InputError(f"{where} has {name} {number}, and this machine {own[name]}.")
        self._first = self._first or found
        this, first = found["machine"], self._first["machine"]
        for name, other in ((this.device, first.device), (this.served_on, first.served_on)):
            if name != other:
                raise InputError(
                    f"{where} computes on {name}, and that on {self._first['place']} on {other}; what "
                    f"is measured would depend on who does it."
                )
        return str(found["node"])

    def _refuse(self, error: Exception) -> InputError:
        """What is said of a worker that does not say what it is."""
        reason = told(error).rpartition("Error: ")[2].partition(" class_name: ")[0]
        hint = TOKEN if "never ran" in str(error) else ""
        return InputError(f"executor: a worker cannot start: {reason}{hint}")

    def check_alive(self) -> None:
        """Ray itself would wait for a minute for a head node that is gone, and then end this process.

        Raises:
            LostError: the head node is gone, or what Ray runs on this machine.
        """
        for family, address in self._sockets:
            with socket.socket(family) as found:
                found.settimeout(ANSWER)
                try:
                    found.connect(address)
                except OSError as error:
                    raise LostError(
                        f"executor: the Ray cluster is gone ({error.strerror or error}); the same "
                        f"command goes on with another one."
                    ) from None

    def close(self) -> None:
        """End all workers, and the cluster if it was started for them."""
        self._mark.unlink(missing_ok=True)
        self.ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise InputError(
            "executor: ray is not installed; pip install 'replaceme[ray]' installs it."
        ) from None
    return ray


def _join(ray: Any, spec: ExecutorSpec) -> None:
    """Have a cluster.

    Raises:
        InputError: nothing answers at the address.
    """
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if spec.address is None:
        os.environ.setdefault("RAY_worker_niceness", "0")  # else whatever else runs goes first
        ray.init(address="local", **quiet)
        return
    quiet.pop("include_dashboard")
    host, _, port = spec.address.removeprefix("ray://").rpartition(":")
    reached = False
    try:
        if host and port.isdigit():
            _greet(host, int(port))
        reached = True
        ray.init(address=spec.address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        hint = TOKEN if reached else ""
        raise InputError(
            f"executor: no Ray cluster answers at {spec.address} ({reason}){hint}."
        ) from None


def _greet(host: str, port: int) -> None:
    """Begin to speak HTTP/2, as Ray does, which itself would wait for an answer for minutes.

    Raises:
        OSError: nobody is there, or somebody who does not speak it.
    """
    with socket.create_connection((host, port), ANSWER) as found:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        found.sendall(HTTP2)
        answer = found.recv(9)
        if answer[3:4] != SETTINGS:
            raise OSError("what answers there is not Ray")


def _find_sockets(ray: Any) -> list[tuple[int, Any]]:
    """Family and address of what has to answer as long as there is a cluster: the head node, and what
    Ray runs on this machine."""
    context = ray.get_runtime_context()
    own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    host, _, port = context.gcs_address.rpartition(":")
    head = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    return [(head[0], head[4]), (socket.AF_UNIX, own["RayletSocketName"])]


def _divide(ray: Any, spec: ExecutorSpec) -> tuple[int, dict[str, float]]:
    """How many workers there are, and what each has.

    Raises:
        InputError: a cluster has not so much.
    """
    has = ray.cluster_resources()
    machines = sum(node["Alive"] for node in ray.nodes())
    cpus, gpus = int(has.get("CPU", 0)), has.get("GPU", 0.0)
    each = (1.0 if gpus else 0.0) if spec.gpus is None else spec.gpus
    workers = spec.workers or int(gpus / each if each else machines)
    wanted = {"num_cpus": float(spec.cpus or max(1, cpus // workers)), "num_gpus": each}
    if spec.memory_bytes:
        wanted["memory"] = float(spec.memory_bytes)
    there = {"num_cpus": cpus, "num_gpus": gpus, "memory": has.get("memory", 0.0)}
    for name, each in wanted.items():
        if workers * each > there[name]:
            raise InputError(
                f"executor: {workers} workers with {_format(wanted)} each need "
                f"{_amount(name, workers * each)}, and the cluster has {_amount(name, there[name])}."
            )
    return workers, wanted


def _format(resources: dict[str, float]) -> str:
    *parts, last = [_amount(name, number) for name, number in resources.items() if number]
    return f"{', '.join(parts)} and {last}" if parts else last


def _amount(name: str, number: float) -> str:
    if name == "memory":
        return f"{format_bytes(int(number))} of memory"
    return f"{number:g} {NAMES[name]}" + "s" * (number != 1)
