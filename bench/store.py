"""The files of a result folder: one JSON record per cell, and a compact file with its per-sample scores.

Layout: ``records/STEM.json`` and ``samples/STEM.jsonl.gz``.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.records import SCHEMA_VERSION, Record
from replaceme.errors import InputError
from replaceme.io.files import write_atomically
from replaceme.io.yaml_file import shown, text_of

MOST_BYTES = 64 << 20  # of a record, and of the scores of its items: 30 characters for 2 million items


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
        """Task → {"doc_id": […], metric: […]}, and where it is kept the chosen answers, see
        :mod:`bench.changes`.

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


def _integer(text: str) -> int:
    """A whole number of a size that can be reckoned with."""
    if len(text) > 19:
        raise ValueError("the number is too large")
    return int(text)


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
    if content["schema_version"] < 6 and isinstance(identity := content.get("identity"), dict):
        model = {"model": identity.pop("model")} if "model" in identity else {}
        step = [{"kind": "prune", **identity}] if "solver" in identity else []
        content["identity"] = {**model, "recipe": step}
    content["schema_version"] = SCHEMA_VERSION
    return content
