"""What a plan knows by name and not by content: another content under the same name is not noticed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from bench.suite.matrix import Plan
from bench.tasks.catalog import hub_dataset_of

MOST_NAMES = 6


def list_known_by_name(plan: Plan) -> list[str]:
    """Models, texts and the data of tasks, each in a few words; empty: all are known by content.

    What tasks ask, and the tokens of the calibration, are in the records as hashes once they are known.
    """
    return [*_models(plan), *_calibration(plan), *_healing(plan), *_tasks(plan)]


def _models(plan: Plan) -> Iterator[str]:
    for cell in plan.cells:
        if not cell.identity.recipe and (cell.identity.model.weights or "").startswith("hub:"):
            yield f"model {(cell.identity.model.weights or '').removeprefix('hub:')}"


def _calibration(plan: Plan) -> Iterator[str]:
    data = plan.suite.calibration.fingerprint()
    if any(cell.solver for cell in plan.cells) and data.startswith("hub:"):
        yield f"calibration data {data.removeprefix('hub:')}"


def _healing(plan: Plan) -> Iterator[str]:
    texts = [cell.identity.heal.text for cell in plan.cells if cell.identity.heal]
    for hub in dict.fromkeys(text.hub for text in texts if text and text.hub):
        yield f"healing data {'@'.join(hub)}"


def _tasks(plan: Plan) -> Iterator[str]:
    inside = [task.name for task in plan.tasks if task.source.fingerprint.startswith("lm_eval==")]
    if inside:
        yield f"tasks of lm-eval {metadata.version('lm_eval')} ({_shorten(inside)})"
    outside = {task.name: hub_dataset_of(task.source) for task in plan.tasks if task.name not in inside}
    if named := [f"{name}: {data}" for name, data in outside.items() if data]:
        yield f"data of tasks ({_shorten(named)})"


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
