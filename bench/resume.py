"""What a plan still has to do for a cell, told from its record."""

from __future__ import annotations

from bench.matrix import Plan, Task, serving_identity
from bench.records import Record


def tasks_left(cell_record: Record | None, tasks: list[Task]) -> list[Task]:
    """The tasks that a record does not answer."""
    quality = cell_record.quality if cell_record else {}
    return [
        t for t in tasks if t.spec.task not in quality or quality[t.spec.task].identity != t.identity
    ]


def serving_left(record: Record | None, plan: Plan) -> bool:
    """Whether a record lacks the serving measurement that the plan wants."""
    if plan.suite.serve is None:
        return False
    if record is None or record.serving is None:
        return True
    known = record.serving.identity
    return known != serving_identity({}, plan.suite.serve, "") | {
        "config": known.get("config"),
        "checkpoint": known.get("checkpoint") if plan.suite.serve.per_checkpoint else None,
    }


def stages_left(record: Record | None, plan: Plan) -> list[str]:
    """Names of the stages that a run would do for a cell."""
    left = [] if record and record.prune else ["prune"]
    left += [f"score:{task.spec.task}" for task in tasks_left(record, plan.tasks)]
    return left + ["serve"] * serving_left(record, plan)
