"""Starts the worker that runs the engine, and makes sure that nothing of it survives."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bench.serving.device import engine_version
from bench.serving.result import ServingResult
from bench.serving.spec import ServeSettings

_ERROR = re.compile(r"(?:^|[\s.])([A-Z]\w*(?:Error|Exception|Interrupt|Exit)): (.+)")
_POINTER = re.compile(
    r"see (the )?(root cause|stack trace)|failed to start|initialization failed", re.IGNORECASE
)


class ServingError(Exception):
    """A measurement that did not happen; `reason` is one sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class EngineMissingError(ServingError):
    """vLLM is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "vLLM is not installed: run `pip install 'replaceme[vllm]'` on a machine with an NVIDIA "
            "GPU, or `make` in the repository on a CPU."
        )


class WorkerSpec(BaseModel):
    """What the worker reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoints: list[Path]
    settings: ServeSettings


def measure(
    checkpoints: Sequence[Path], settings: ServeSettings, log_file: Path, work_dir: Path | None = None
) -> list[ServingResult]:
    """Measure latency and memory of checkpoint folders of one shape in a fresh engine process.

    The engine is started on the first and has the weights of the others put in; where it refuses them,
    the next process measures the rest. All output goes to `log_file`, replacing what was there; scratch
    files lie in `work_dir` (default: the system's folder) and are removed. Raises `EngineMissingError`
    where vLLM is not installed, and `ServingError` when the engine fails or takes longer than
    `settings.timeout` seconds for a checkpoint. Whatever happens, no process is left.
    """
    if engine_version() is None:
        raise EngineMissingError
    for checkpoint in checkpoints:
        if not checkpoint.is_dir():
            raise ServingError(f"{checkpoint} is not a checkpoint folder.")
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.unlink(missing_ok=True)  # a link would be written through
    results: list[ServingResult] = []
    while left := [folder.resolve() for folder in checkpoints[len(results) :]]:
        with tempfile.TemporaryDirectory(prefix="serving-", dir=work_dir) as scratch:
            spec = Path(scratch, "spec.json")
            spec.write_text(WorkerSpec(checkpoints=left, settings=settings).model_dump_json())
            results += _measure(spec, Path(scratch, "result.jsonl"), log_file, settings.timeout)
    return results


def _measure(spec: Path, result: Path, log_file: Path, timeout: float) -> list[ServingResult]:
    """The results of one process, of at least one checkpoint."""
    written = 0

    def has_moved() -> bool:
        nonlocal written
        before, written = written, result.stat().st_size if result.exists() else 0
        return written > before

    status = run_worker("bench.serving.worker", [spec, result], log_file, timeout, has_moved)
    if status != 0 or not result.exists():
        raise ServingError(f"{explain_failure(status, log_file)} (log: {log_file.name})")
    return [ServingResult.model_validate_json(line) for line in result.read_bytes().splitlines()]


def run_worker(
    module: str,
    arguments: list[Path],
    log_file: Path,
    timeout: float,
    has_moved: Callable[[], bool] = lambda: False,
) -> int:
    """Run a module of ours in a process of its own to its end; returns its exit status.

    Args:
        module: its name; it dies when its standard input, our pipe, closes.
        arguments: of its command line.
        log_file: that takes all its output.
        timeout: seconds that it may take, or take without a sign that it goes on.
        has_moved: asked every second for such a sign.

    Raises:
        ServingError: it took longer, and was killed with all its processes.
    """
    command = [sys.executable, "-P", "-m", module, *map(str, arguments)]
    with log_file.open("wb") as log:
        worker = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        last = time.monotonic()
        while time.monotonic() - last < timeout:
            with suppress(subprocess.TimeoutExpired):
                return worker.wait(min(1.0, timeout))
            if has_moved():
                last = time.monotonic()
        raise ServingError(
            f"The engine did not finish within {timeout:g} s and was killed (log: {log_file.name})"
        )
    finally:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        if worker.stdin:
            worker.stdin.close()


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
