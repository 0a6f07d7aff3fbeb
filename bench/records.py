"""One versioned JSON record per cell, and a compact file with its per-sample scores.

Layout of a result folder: ``records/STEM.json`` and ``samples/STEM.jsonl.gz``.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import tempfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from bench.serving import ServingResult
from replaceme.errors import InputError, OutputError
from replaceme.yaml_file import shown, text_of

SCHEMA_VERSION = 5
MOST_BYTES = 64 << 20  # of a record, and of the scores of its items: 30 characters for 2 million items


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _integer(text: str) -> int:
    """A whole number of a size that can be reckoned with."""
    if len(text) > 19:
        raise ValueError("the number is too large")
    return int(text)


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Solver(_Open):
    name: str
    parameters: dict[str, Any]


class _Known(_Open):
    """What readers look for in an identity or an environment, where there may be more."""

    model: dict[str, Any] = {}
    solver: _Solver | None = None
    settings: dict[str, Any] = {}
    calibration: dict[str, Any] = {}
    packages: dict[str, Any] = {}
    blocks: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = []


def _parts(value: dict[str, Any]) -> dict[str, Any]:
    try:
        _Known.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    return value


Parts = Annotated[dict[str, Any], AfterValidator(_parts)]
Number = Annotated[float | None, BeforeValidator(_finite)]  # None: unknown, or not finite


class Prune(_Part):
    """What was removed and how well the transform fits."""

    blocks: list[tuple[int, int]] = Field(
        description="removed layers, 0-based, half-open; empty: the baseline"
    )
    score: Number = Field(
        None, description="what the selector minimised: angular distance (0 to 1), or nats per token"
    )
    runner_up: list[tuple[int, int]] | None = Field(None, description="the second best choice")
    runner_up_score: Number = None
    distances: list[list[Number]] | None = Field(
        None,
        description="the selector's distance of every block, 0 to 1: [size − 1][start − 1]; null: "
        "blocks were given",
    )
    relative_error: tuple[Number, Number] | None = Field(
        None,
        description="√(Σ‖prediction − L‖² / Σ‖L‖²) at the end of the first block on sampled calibration "
        "tokens, with plain removal, and with the fit",
    )
    mean_cosine: tuple[Number, Number] | None = Field(
        None,
        description="mean cos(prediction, L) on the same tokens, with plain removal, and with the fit",
    )
    loss: tuple[Number, Number] | None = Field(
        None, description="nats per held-back calibration token, with plain removal, and with the fit"
    )
    intact_loss: Number = Field(None, description="nats per held-back token of the intact model")
    held_back_tokens: int | None = Field(None, description="calibration tokens that were not fitted on")
    warning: str | None = Field(None, description="why the fit should not be trusted")
    notes: dict[str, Any] = Field(default={}, description="the solver's own notes")
    solve_seconds: float | None = None
    calibration_tokens: int | None = Field(
        None, description="real tokens that were fitted on, padding not counted"
    )
    calibration_seconds: float | None = Field(
        None, description="all passes, shared by the model's cells"
    )
    peak_memory_bytes: int | None = Field(
        None, description="peak resident bytes of the process up to the end of this stage"
    )
    peak_device_memory_bytes: int | None = Field(
        None, description="peak bytes allocated on all GPUs up to the same point; null: on no GPU"
    )
    dtype: str = Field(description="of the saved weights")
    parameters: int = Field(description="stored parameters, tied ones once")
    checkpoint_bytes: int = Field(description="bytes of the safetensors files")


class Metric(_Part):
    value: Number
    stderr: Number
    higher_is_better: bool | None


class Task(_Part):
    """One task's scores."""

    identity: dict[str, Any]
    primary: str = Field(description="the metric that counts")
    average: bool = Field(description="whether it counts in the average")
    metrics: dict[str, Metric] = Field(description="accuracies as fractions of 1")
    items: int
    version: str | None = Field(description="lm-eval's version of the task")
    num_fewshot: int
    seconds: float = Field(description="of metrics and, checkpoint by checkpoint, of answers")
    method: Literal["one-pass", "per-variant"] = "per-variant"
    reason: str | None = Field(None, description="why it was not scored in one pass")
    dtype: str | None = Field(None, description="computed in; null: that of the checkpoint")
    pass_seconds: float | None = Field(
        None, description="of the pass that gave the answers of all its variants"
    )
    pass_variants: int | None = Field(None, description="how many these were")
    peak_memory_bytes: int | None = Field(
        None, description="peak resident bytes of the process up to the end of this stage"
    )
    peak_device_memory_bytes: int | None = Field(
        None, description="peak bytes allocated on all GPUs up to the same point; null: on no GPU"
    )

    @model_validator(mode="after")
    def _has_primary(self) -> Self:
        if self.primary not in self.metrics:
            raise ValueError(f"metrics lacks {self.primary!r}, the metric that counts")
        return self


class Serving(_Part):
    """A serving measurement; ``measured_on`` names the cell whose checkpoint was served."""

    identity: Parts
    measured_on: str
    processes: list[ServingResult] = Field(min_length=1, description="one for each engine process")

    @cached_property
    def result(self) -> ServingResult:
        """All engine processes as one."""
        return ServingResult.pooled(self.processes)


class Failure(_Part):
    stage: str = Field(description="prune, score:TASK, or serve")
    error: str
    traceback: str | None = None
    attempt: str | None = Field(
        None, description="hash of what was tried; a run leaves it alone until that changes"
    )


class Record(_Part):
    """Everything known about one cell."""

    schema_version: int = SCHEMA_VERSION
    model: str
    model_id: str
    layers: int = Field(description="decoder layers removed; 0: the baseline")
    label: str
    identity: Parts
    status: Literal["complete", "failed", "started"] = "started"
    failures: list[Failure] = []
    prune: Prune | None = None
    quality: dict[str, Task] = {}
    serving: Serving | None = None
    environment: Parts = {}
    runtime: dict[str, Any] = Field(
        default={}, description="what does not change numbers: batch sizes …"
    )
    updated: str | None = Field(None, description="UTC time of the last change")

    def failed(self, stage: str) -> Failure | None:
        return next((failure for failure in self.failures if failure.stage == stage), None)


class Store:
    """The records of one result folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, stem: str) -> Path:
        return self.folder / "records" / f"{stem}.json"

    def read(self, stem: str) -> Record | None:
        path = self.path(stem)
        return read_record(path) if path.is_file() else None

    def all(self) -> dict[str, Record]:
        """Stem → record.

        Raises:
            InputError: a file that is not a record, or one of a newer schema.
        """
        paths = sorted((self.folder / "records").glob("*.json"))
        return {path.stem: read_record(path) for path in paths}

    def write(self, stem: str, record: Record) -> None:
        write_atomically(self.path(stem), record.model_dump_json(indent=1).encode() + b"\n")

    def read_samples(self, stem: str) -> dict[str, dict[str, list[Any]]]:
        """Task → {"doc_id": […], metric: […]}.

        Raises:
            InputError: the file is damaged.
        """
        path = self.folder / "samples" / f"{stem}.jsonl.gz"
        if not path.is_file():
            return {}
        try:
            with gzip.open(path) as file:
                content = file.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise InputError(f"{path} holds more than {MOST_BYTES >> 20} MiB of scores.")
            lines = content.decode().split("\n")
            found = {entry["task"]: _columns(entry["samples"]) for entry in map(_json, lines)}
        except InputError:
            raise
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, RecursionError):
            found = {}
        if not found:
            raise InputError(f"{path} is not a file of scores; remove it, and its record.")
        return found

    def write_samples(self, stem: str, samples: dict[str, dict[str, list[Any]]]) -> None:
        lines = [
            json.dumps({"task": task, "samples": columns}, separators=(",", ":"))
            for task, columns in samples.items()
        ]
        content = gzip.compress("\n".join(lines).encode(), mtime=0)
        write_atomically(self.folder / "samples" / f"{stem}.jsonl.gz", content)


def _json(text: str) -> Any:
    return json.loads(text, parse_int=_integer)


def _columns(samples: Any) -> dict[str, list[Any]]:
    """What should be lists by name, if it is.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(samples, dict) or not all(isinstance(c, list) for c in samples.values()):
        raise TypeError
    return samples


def read_record(path: Path) -> Record:
    """A record from its file.

    Raises:
        InputError: not JSON, not a record, or of a newer schema.
    """
    try:
        content = _json(text_of(path, MOST_BYTES))
        json.dumps(content, ensure_ascii=False).encode()  # which half of a surrogate pair cannot be
        version = content["schema_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path} is not a record; remove it to compute the cell again.") from None
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version is {version}, and this release reads up to {SCHEMA_VERSION}; "
            f"use a newer release, or another folder."
        )
    try:
        return Record.model_validate(_upgraded(content))
    except ValidationError as error:
        problem = error.errors()[0]
        key = shown(".".join(map(str, problem["loc"])))
        raise InputError(
            f"{path}: {key}: {problem['msg']}; remove it to compute the cell again."
        ) from None


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A record of an older schema as one of this."""
    if content["schema_version"] == 1 and isinstance(prune := content.get("prune"), dict):
        block, runner_up = prune.pop("block", None), prune.pop("runner_up", None)
        prune["blocks"] = [block] if block else []
        prune["runner_up"] = [runner_up] if runner_up else None
        prune["score"] = prune.pop("distance", None)
        prune["runner_up_score"] = prune.pop("runner_up_distance", None)
    if content["schema_version"] < 4 and isinstance(serving := content.get("serving"), dict):
        serving["processes"] = [serving.pop("result", None)]
        identity = serving.get("identity")
        if isinstance(identity, dict) and isinstance(settings := identity.get("settings"), dict):
            settings["processes"] = 1
    content["schema_version"] = SCHEMA_VERSION
    return content


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(part).chmod(0o644)
        Path(part).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        if part:
            Path(part).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have a new name in a folder on the disk, so that it is there after a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(handle)
    finally:
        os.close(handle)
