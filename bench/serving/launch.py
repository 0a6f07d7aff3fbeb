"""Measures checkpoints in workers that run the engine."""

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bench.serving.device import engine_version
from bench.serving.result import ServingResult
from bench.serving.spec import ServeSettings
from bench.serving.workers import ServingError, Workers, explain_failure


class EngineMissingError(ServingError):
    """vLLM is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "vLLM is not installed: run `pip install 'replaceme[vllm]'` on a machine with an NVIDIA "
            "GPU, or `make` in the repository on a CPU."
        )

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return EngineMissingError, ()


class WorkerSpec(BaseModel):
    """What the worker reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoints: list[Path]
    settings: ServeSettings


def prepare_workers(settings: ServeSettings) -> Workers:
    """Workers that measure with some settings."""
    return Workers("bench.serving.worker", settings.cpu_threads)


def measure(
    checkpoints: Sequence[Path],
    settings: ServeSettings,
    log_file: Path,
    work_dir: Path | None = None,
    workers: Workers | None = None,
) -> list[ServingResult]:
    """Measure latency and memory of checkpoint folders of one shape in a fresh engine process.

    The engine is started on the first and has the weights of the others put in; where it refuses them,
    the next process measures the rest. All output goes to `log_file`, replacing what was there; scratch
    files lie in `work_dir` (default: the system's folder) and are removed. The processes are `workers`;
    `None`: made and ended here. Raises `EngineMissingError` where vLLM is not installed, and
    `ServingError` when the engine fails or takes longer than `settings.timeout` seconds for a
    checkpoint. Whatever happens, no process of the engine is left.
    """
    if engine_version() is None:
        raise EngineMissingError
    for checkpoint in checkpoints:
        if not checkpoint.is_dir():
            raise ServingError(f"{checkpoint} is not a checkpoint folder.")
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.unlink(missing_ok=True)  # a link would be written through
    results: list[ServingResult] = []
    with nullcontext(workers) if workers else prepare_workers(settings) as workers:
        while left := [folder.resolve() for folder in checkpoints[len(results) :]]:
            with tempfile.TemporaryDirectory(prefix="serving-", dir=work_dir) as scratch:
                spec = Path(scratch, "spec.json")
                spec.write_text(WorkerSpec(checkpoints=left, settings=settings).model_dump_json())
                result = Path(scratch, "result.jsonl")
                results += _measure(workers, spec, result, log_file, settings.timeout)
    return results


def _measure(
    workers: Workers, spec: Path, result: Path, log_file: Path, timeout: float
) -> list[ServingResult]:
    """The results of one process, of at least one checkpoint."""
    written = 0

    def has_moved() -> bool:
        nonlocal written
        before, written = written, result.stat().st_size if result.exists() else 0
        return written > before

    status = workers.run([spec, result], log_file, timeout, has_moved)
    if status != 0 or not result.exists():
        raise ServingError(f"{explain_failure(status, log_file)} (log: {log_file.name})")
    return [ServingResult.model_validate_json(line) for line in result.read_bytes().splitlines()]
