"""What a model card tells of a record's model and calibration text."""

from __future__ import annotations

from typing import Any

from bench import repeat
from bench.records import Record
from bench.render.escape import visible
from replaceme.calibration import GENERATED
from replaceme.io.models import is_hub_id
from replaceme.provenance import code, name_own_text
from replaceme.recipe import CalibrationSettings


def settings(record: Record) -> dict[str, Any]:
    """Keys and values of ``replaceme-bench prune --config`` that make the same checkpoint, without the
    path of a local model."""
    public = is_hub_id(record.model_id) or record.model_id.startswith("package:")
    model = {} if public else {"model": plain_name(record)}
    out = {"out": f"{plain_name(record)}-{record.layers}-layers-less"}
    return {key: _visible(value) for key, value in (repeat.settings(record) | model | out).items()}


def heal_settings(record: Record) -> dict[str, Any]:
    """Those of ``replaceme-bench heal --config`` that heal what the others prune; none where nothing was
    trained."""
    if record.identity.heal is None:
        return {}
    made = settings(record)
    told = {"checkpoint": made["out"], "teacher": made["model"], "out": f"{made['out']}-healed"}
    return told | {key: _visible(value) for key, value in repeat.heal_settings(record).items()}


def dataset(record: Record) -> str:
    """The calibration text, in Markdown."""
    text = calibration_of(record)
    name = code(text.name) if text.name else f"a local text ({code(text.data or '')})"
    if text.generated:
        return name_own_text("" if text.data == GENERATED else name)
    return name


def hub_dataset(record: Record) -> tuple[str, str] | None:
    """Id and revision of the calibration data, if it is from the hub."""
    return calibration_of(record).hub


def calibration_of(record: Record) -> CalibrationSettings:
    step = record.identity.prune
    return step.calibration if step else CalibrationSettings()


def plain_name(record: Record) -> str:
    """The model's name, fit for a folder and a line of code."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in "._-" else "-" for c in record.model)


def _visible(value: Any) -> Any:
    if isinstance(value, dict):
        return {visible(str(key)): _visible(item) for key, item in value.items()}
    return visible(value) if isinstance(value, str) else value
