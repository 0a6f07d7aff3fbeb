"""Runs workers, each in a process of its own, and makes sure that nothing of them survives."""

import json
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Self, TypeVar

SIGN = 1.0  # seconds after which a worker is asked for a sign that it goes on
PATIENCE = 10.0  # seconds for the processes to end

T = TypeVar("T")

_ERROR = re.compile(r"(?:^|[\s.])([A-Z]\w*(?:Error|Exception|Interrupt|Exit)): (.+)")
_POINTER = re.compile(
    r"see (the )?(root cause|stack trace)|failed to start|initialization failed", re.IGNORECASE
)


class ServingError(Exception):
    """A measurement that did not happen; `reason` is one sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Workers:
    """Workers of one kind, forked one after the other from a process that has imported the engine."""

    def __init__(self, module: str, cpu_threads: int | None = None) -> None:
        """Prepare; the process is started with the first worker.

        Args:
            module: that has ``import_engine()`` and ``main(*arguments)``.
            cpu_threads: of an engine on a CPU; ``None``: one per physical core.
        """
        self.module, self.cpu_threads = module, cpu_threads
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process that workers are forked from, and the worker."""
        server, self._server = self._server, None
        if server is None:
            return
        assert server.stdin
        server.stdin.close()
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

    def run(
        self,
        arguments: Sequence[Path],
        log_file: Path,
        timeout: float,
        has_moved: Callable[[], bool] = lambda: False,
    ) -> int:
        """Run a worker to its end; returns its exit status.

        Args:
            has_moved: asked every second for a sign that it goes on.

        Raises:
            ServingError: as :meth:`watch`.
        """
        signs = self.watch(arguments, log_file, timeout, lambda: [None] if has_moved() else [])
        while True:
            try:
                next(signs)
            except StopIteration as end:
                return int(end.value)

    def watch(
        self,
        arguments: Sequence[Path],
        log_file: Path,
        timeout: float,
        read_news: Callable[[], list[T]],
    ) -> Generator[list[T], None, int]:
        """Run a worker to its end; yields news of it, and returns its exit status.

        Args:
            arguments: of its ``main``.
            log_file: that takes all its output.
            timeout: seconds that it may take, or take without news.
            read_news: asked every second.

        Raises:
            ServingError: it took longer, and was killed with all its processes.
        """
        log_file.write_bytes(b"")
        if self._server is None or self._server.poll() is not None:
            self._server = self._start(log_file)
        server = self._server
        try:
            _send(server, [str(log_file.resolve()), *map(str, arguments)])
            return (yield from _wait(server, log_file, timeout, read_news))
        except BaseException:
            self.close()
            raise

    def _start(self, log_file: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-W", "ignore::DeprecationWarning"]
        command += ["-m", "bench.serving.forkserver", self.module, str(self.cpu_threads or 0)]
        pipe = subprocess.PIPE
        with log_file.open("ab") as log:
            return subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=log, bufsize=0, start_new_session=True
            )


def _send(server: subprocess.Popen[bytes], words: list[str]) -> None:
    assert server.stdin
    with suppress(BrokenPipeError):  # it has ended, which is what is heard of it then
        server.stdin.write(json.dumps(words).encode() + b"\n")


def _wait(
    server: subprocess.Popen[bytes], log_file: Path, timeout: float, read_news: Callable[[], list[T]]
) -> Generator[list[T], None, int]:
    last = time.monotonic()
    while time.monotonic() - last < timeout:
        if (status := _receive(server, min(SIGN, timeout))) is not None:
            return status
        if news := read_news():
            last = time.monotonic()
            yield news
    raise ServingError(
        f"The engine did not finish within {timeout:g} s and was killed (log: {log_file.name})"
    )


def _receive(server: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The status of the worker, or of the server if that has ended; ``None`` if nothing is heard."""
    assert server.stdout
    if not select.select([server.stdout], [], [], seconds)[0]:
        return None
    return int(server.stdout.readline() or server.wait() or 1)


def explain_failure(status: int, log_file: Path) -> str:
    """Why the worker ended with `status`, from the last error in its log where there is one."""
    if status < 0:
        return f"The engine was killed by {signal.Signals(-status).name}"
    lines = [line.strip() for line in log_file.read_text(errors="replace").splitlines() if line.strip()]
    found = [(match, after) for line, after in pairwise([*lines, ""]) if (match := _ERROR.search(line))]
    telling = [error for error in found if not _POINTER.search(error[0][2])] or found
    if not telling:
        return f"The engine ended with status {status}" + (f": {lines[-1]}" if lines else "")
    match, after = telling[-1]
    if match[1] == "ValidationError":  # pydantic's: the message is on the next line
        return re.sub(r"^(Value error|Assertion failed), | \[type=.*", "", after)
    return f"{match[1]}: {match[2]}"
