"""What a record says → the command that makes its checkpoint again."""

from __future__ import annotations

import glob
import json
import shlex
from typing import Any

from bench.records import Record
from replaceme.calibration import BUILTIN_PREFIX, BUILTINS, CalibrationData
from replaceme.errors import InputError
from replaceme.solvers import make_solver

NAMES = {"samples": "samples", "max_length": "max-length", "seed": "seed", "column": "column"}
NAMES |= {"subset": "subset", "split": "split"}
UNKNOWN_DATA = "CALIBRATION_FILE"


def commands(record: Record) -> list[str]:
    """Shell commands: one that makes the checkpoint, and one that measures the cell in its suite.

    An identity knows a calibration file and the weights by their content alone, so files on another
    machine may have to be named anew; :func:`remarks` says which.
    """
    cell = f"{record.layers}/{record.label}" if record.layers else record.label
    only = glob.escape(f"{record.model}/{cell}")
    in_suite = f"replaceme-bench run SUITE.yaml --only {shlex.quote(only)}"
    return [_prune(record), in_suite] if record.layers else [in_suite]


def remarks(record: Record) -> list[str]:
    """What the commands leave open."""
    found = ["SUITE.yaml: the suite that this cell belongs to."]
    if record.layers and _dataset(_part(record.identity, "calibration")) == UNKNOWN_DATA:
        data = _part(record.identity, "calibration").get("data")
        found.append(f"{UNKNOWN_DATA}: the calibration data with {data}; the record does not name it.")
    weights = _part(record.identity, "model").get("weights")
    if isinstance(weights, str):
        found.append(f"Weights: {weights}.")
    return found


def _part(identity: dict[str, Any], key: str) -> dict[str, Any]:
    found = identity.get(key)
    return found if isinstance(found, dict) else {}


def _prune(record: Record) -> str:
    identity = record.identity
    words = [record.model_id, *_model_options(identity), *_choice_options(record)]
    solver, given = _solver(_part(identity, "solver"), record.label)
    words += solver
    words += _calibration_options(_part(identity, "calibration"))
    words += ["--out", "PRUNED"]
    if record.model_id.startswith("-"):
        words = [*words[1:], "--", words[0]]
    return f"replaceme-bench prune {shlex.join(words)}{given}"


def _option(name: str, value: Any) -> list[str]:
    return [] if value is None else [f"--{name}", str(value)]


def _model_options(identity: dict[str, Any]) -> list[str]:
    model = _part(identity, "model")
    weights = str(model.get("weights") or "")
    revision = weights.rpartition("@")[2] if weights.startswith("hub:") and "@" in weights else None
    options = _option("revision", revision if revision != "main" else None)
    options += _option("dtype", model.get("dtype"))
    options += _option("calibration-dtype", identity.get("calibration_dtype"))
    return options + _option("compat", identity.get("compat"))


def _choice_options(record: Record) -> list[str]:
    blocks = record.identity.get("blocks")
    if isinstance(blocks, list) and blocks:
        return [word for start, end in blocks for word in _option("blocks", f"{start}:{end}")]
    options = _option("layers", record.layers) + _option("selector", record.identity.get("selector"))
    several = record.identity.get("num_blocks")
    return options + _option("num-blocks", several if several != 1 else None)


def _solver(solver: dict[str, Any], label: str) -> tuple[list[str], str]:
    """Options that name the solver, or, where they cannot say it all, a file from the shell."""
    name, parameters = str(solver.get("name") or label), _part(solver, "parameters")
    try:
        usual = make_solver(name).identity["parameters"]
    except InputError:  # of another release
        usual = {}
    unusual = {key for key, value in parameters.items() if usual.get(key, ...) != value}
    if unusual <= {"ridge"}:
        return _option("solver", name) + _option("ridge", parameters.get("ridge")), ""
    given = json.dumps({"name": name, **parameters}, ensure_ascii=True)
    return ["--config", "/dev/stdin"], f" <<'END'\nsolver: {given}\nEND"


def _calibration_options(calibration: dict[str, Any]) -> list[str]:
    words = _option("calibration", _dataset(calibration))
    words += _option("calibration-revision", calibration.get("revision"))
    usual = CalibrationData()
    for key, name in NAMES.items():
        value = calibration.get(key)
        if key in ("samples", "max_length", "seed") or value != getattr(usual, key):
            words += _option(name, value)
    words += ["--streaming"] if calibration.get("streaming") else []
    return words + _option("date", calibration.get("date"))


def _dataset(calibration: dict[str, Any]) -> str:
    """The data set by the fingerprint that an identity holds."""
    data = str(calibration.get("data") or "")
    if data.startswith("hub:"):
        return data.removeprefix("hub:").rpartition("@")[0]
    for name in BUILTINS:
        dataset = BUILTIN_PREFIX + name
        if CalibrationData(dataset=dataset).fingerprint() == data:
            return dataset
    return UNKNOWN_DATA
