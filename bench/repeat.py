"""What a record says → the commands and the file that make its checkpoint again."""

from __future__ import annotations

import glob
import json
import shlex
from collections.abc import Iterator
from typing import Any

from bench.records import Record
from replaceme.calibration import CalibrationData
from replaceme.errors import InputError
from replaceme.recipe import LOCAL, PruneStep
from replaceme.solvers import make_solver

USUAL = {"num_blocks": 1, **CalibrationData().model_dump(include={"split", "column"})}

TEXT = (
    *("calibration", "subset", "split", "calibration_revision", "column"),
    *("samples", "max_length", "date"),
)


def settings(record: Record) -> dict[str, Any]:
    """Keys and values of ``replaceme-bench prune --config`` that make the same checkpoint, but for the
    folder to write. Local data have a stand-in for a name; :func:`remarks` says so."""
    model = record.identity.model
    told = {
        "model": record.model_id,
        "revision": model.revision if model.revision != "main" else None,
        **_said_by(record, "prune"),
        "dtype": model.dtype,
    }
    return {key: value for key, value in told.items() if value is not None}


def commands(record: Record) -> list[str]:
    """Shell commands: one that makes the checkpoint, and one that measures the cell in its suite."""
    in_suite = f"replaceme-bench run SUITE.yaml --only {shlex.quote(glob.escape(record.name))}"
    healing = [_heal(record)] if record.identity.heal else []
    return [*_generate(record), _prune(record), *healing, in_suite] if record.layers else [in_suite]


def _said_by(record: Record, verb: str) -> dict[str, Any]:
    """Settings of the steps that a verb does."""
    steps = [step for step in record.identity.recipe if step.verb == verb]
    return {key: value for step in steps for key, value in step.settings().items()}


def remarks(record: Record) -> list[str]:
    """What the commands leave open: an identity knows local files by their content alone."""
    said = ["SUITE.yaml: the suite that this cell belongs to."]
    if (step := record.identity.prune) and step.calibration.name is None:
        data = step.calibration.data
        said.append(f"{LOCAL}: the calibration data with {data}; the record does not name it.")
    if (healing := record.identity.heal) and healing.text and healing.text.name is None:
        data = healing.text.data
        said.append(f"{LOCAL} of heal: the data with {data}; the record does not name it.")
    if weights := record.identity.model.weights:
        said.append(f"Weights: {weights}.")
    return said


def _prune(record: Record) -> str:
    told = {key: value for key, value in settings(record).items() if value != USUAL.get(key, ...)}
    model, solver = told.pop("model"), told.pop("solver", {"name": record.label})
    if "layers" not in told and "blocks" not in told:
        told = {"layers": record.layers} | told
    options, given = _solver(solver)
    words = [*(word for key, value in told.items() for word in _option(key, value)), *options]
    words += ["--out", "PRUNED"]
    words = [*words, "--", model] if model.startswith("-") else [model, *words]
    return f"replaceme-bench prune {shlex.join(words)}{given}"


def _generate(record: Record) -> list[str]:
    """Commands that have the model write the texts that the others name."""
    steps = (record.identity.prune, record.identity.heal)
    texts = [step.calibration if isinstance(step, PruneStep) else step.text for step in steps if step]
    found = {}
    for text in texts:
        if text and text.generated:
            told = {key: value for key, value in text.writing().items() if value is not None}
            told = {key: value for key, value in told.items() if value != USUAL.get(key, ...)}
            words = [word for key, value in told.items() for word in _option(key, value)]
            words = [record.model_id, *words, "--out", text.file]
            found[text.file] = f"replaceme-bench generate {shlex.join(words)}"
    return [*found.values()]


def heal_settings(record: Record) -> dict[str, Any]:
    """Keys and values of ``replaceme-bench heal --config`` that heal what the others prune, but for the
    folders."""
    model, prune = record.identity.model, record.identity.prune
    text = prune.calibration.settings() if prune else {}
    told: dict[str, Any] = {"revision": model.revision if model.revision != "main" else None}
    told |= {key: text[key] for key in TEXT if key in text} | _said_by(record, "heal")
    return {key: value for key, value in told.items() if value is not None and value is not False}


def _heal(record: Record) -> str:
    told = {k: v for k, v in heal_settings(record).items() if v != USUAL.get(k, ...)}
    words = ["PRUNED", "--teacher", record.model_id]
    words += [word for key, value in told.items() for word in _option(key, value)]
    return f"replaceme-bench heal {shlex.join([*words, '--out', 'HEALED'])}"


def _option(key: str, value: Any) -> Iterator[str]:
    name = f"--{key.replace('_', '-')}"
    for item in value if isinstance(value, list) else [value]:
        yield from [name] if item is True else [name, str(item)]


def _solver(solver: dict[str, Any]) -> tuple[list[str], str]:
    """Options that name the solver, or, where they cannot say it all, a file from the shell."""
    name, parameters = solver["name"], {key: item for key, item in solver.items() if key != "name"}
    try:
        usual = make_solver(name).identity["parameters"]
    except InputError:  # of another release
        usual = {}
    unusual = {key for key, value in parameters.items() if usual.get(key, ...) != value}
    if unusual <= {"ridge"}:
        options = ["--solver", name]
        return options + (["--ridge", str(parameters["ridge"])] if "ridge" in parameters else []), ""
    given = json.dumps(solver, ensure_ascii=True)
    return ["--config", "/dev/stdin"], f" <<'END'\nsolver: {given}\nEND"
