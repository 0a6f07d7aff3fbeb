"""What a record says about its model and calibration text, and how to make its checkpoint again."""

from __future__ import annotations

from typing import Any

from bench.records import Record
from bench.render.escape import visible
from replaceme.calibration import CalibrationData
from replaceme.io.models import is_hub_id
from replaceme.provenance import code

CALIBRATION = ("subset", "split", "column", "samples", "max_length", "seed", "date")
LOCAL = "calibration.jsonl"  # stands for a local file, whose name is not recorded


def settings(record: Record) -> dict[str, Any]:
    """Keys and values for ``replaceme-bench prune --config`` that make the same checkpoint."""
    identity = record.identity
    model, solver, data = identity.get("model", {}), identity.get("solver", {}), dataset_name(record)
    calibration = identity.get("calibration", {})
    _, _, revision = str(model.get("weights", "")).rpartition("@")
    blocks = [f"{start}:{end}" for start, end in identity.get("blocks") or []]
    hub = hub_dataset(record)
    found = {
        "model": record.model_id if _public(record) else plain_name(record),
        "revision": revision if is_hub_id(record.model_id) and revision != "main" else None,
        "layers": None if blocks else record.layers,
        "blocks": blocks or None,
        "selector": identity.get("selector"),
        "num_blocks": identity.get("num_blocks"),
        "solver": {"name": solver.get("name"), **solver.get("parameters", {})},
        "calibration": data,
        "calibration_revision": hub[1] if hub and hub[1] != "main" else None,
        **{k: calibration.get(k) for k in CALIBRATION},
        "streaming": True if calibration.get("streaming") else None,
        "dtype": model.get("dtype"),
        "calibration_dtype": identity.get("calibration_dtype"),
        "compat": identity.get("compat"),
        "out": f"{plain_name(record)}-{record.layers}-layers-less",
    }
    return {key: _visible(value) for key, value in found.items() if value is not None}


def dataset(record: Record) -> str:
    """The calibration text, in Markdown."""
    known = str(record.identity.get("calibration", {}).get("data", ""))
    name = dataset_name(record)
    return code(name) if name != LOCAL else f"a local text ({code(known)})"


def dataset_name(record: Record) -> str:
    """Hub id, built-in text, or a stand-in for a local file, whose name is not recorded."""
    if hub := hub_dataset(record):
        return hub[0]
    known, usual = record.identity.get("calibration", {}).get("data"), CalibrationData()
    return usual.dataset if known == usual.fingerprint() else LOCAL


def hub_dataset(record: Record) -> tuple[str, str] | None:
    """Id and revision of the calibration data, if it is from the hub."""
    data = str(record.identity.get("calibration", {}).get("data", ""))
    name, _, revision = data.removeprefix("hub:").rpartition("@")
    return (name, revision) if data.startswith("hub:") and is_hub_id(name) else None


def _public(record: Record) -> bool:
    """Whether a model's id means the same on another machine."""
    return is_hub_id(record.model_id) or record.model_id.startswith("package:")


def plain_name(record: Record) -> str:
    """The model's name, fit for a folder and a line of code."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in "._-" else "-" for c in record.model)


def _visible(value: Any) -> Any:
    if isinstance(value, dict):
        return {visible(str(key)): _visible(item) for key, item in value.items()}
    return visible(value) if isinstance(value, str) else value
