"""What a plan still has to do for a cell, told from its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from bench.records import Failure, Group, Record
from bench.records import Task as Scored
from bench.scoring.metrics import primary_metric
from bench.serving import device_name, engine_version
from bench.store import Store
from bench.suite.matrix import Cell, Plan, serving_identity
from bench.tasks.catalog import yaml_of
from bench.tasks.planned import PlannedGroup, PlannedTask, stage_of
from replaceme.calibration import CalibrationData
from replaceme.io.models import file_hash
from replaceme.recipe import digest


@dataclass(frozen=True)
class Retry:
    """What a run does again though nothing has changed: what failed, and noisy measurements."""

    failed: bool = False
    noisy: bool = False


NOTHING = Retry()


def recall_record(cell: Cell, plan: Plan, store: Store, retry: Retry = NOTHING) -> Record:
    """A cell's record as the plan sees it: labels and metrics as they are called now, and no failures
    but those that a run leaves alone.

    Args:
        retry: what is done again, and so not in the record.

    Raises:
        InputError: it cannot be read, or lacks a metric that the suite names.
    """
    record = store.read(cell.stem)
    if record is None:
        return Record(
            model=cell.model.name,
            model_id=cell.model.id,
            layers=cell.layers,
            label=cell.label,
            identity=cell.identity,
        )
    record.label, record.model = cell.label, cell.model.name
    for task in plan.tasks:
        if (found := record.quality.get(task.spec.task)) and found.identity == task.identity:
            if _is_outdated(found, task, plan):
                del record.quality[task.spec.task]
                continue
            found.primary = primary_metric(task.spec, found.metrics)
            found.average, found.column = task.spec.average, task.column
    record.groups = {
        name: group for name, group in record.groups.items() if _was_made_from(group, record)
    }
    for group in plan.groups:
        if (made := record.groups.get(group.name)) and made.identity == group.identity:
            made.primary = primary_metric(group.spec, made.metrics)
            made.average, made.column = group.spec.average, group.column
    if retry.noisy and record.serving and record.serving.noise:
        record.serving = None
    record.failures = [] if retry.failed else _keep_standing(record, cell, plan)
    record.status = judge(record, plan)
    return record


def _is_outdated(found: Scored, task: PlannedTask, plan: Plan) -> bool:
    """Whether a score with the identity that is wanted comes from other files or, of answers that are
    drawn at random, from another batch size."""
    assert plan.suite.score
    if found.sampled_batch not in (None, plan.suite.score.batch_size):
        return True
    if not found.files:
        return False
    paths = {yaml_of(task.source).parent / name: known for name, known in found.files.items()}
    return any(not path.is_file() or file_hash(path) != known for path, known in paths.items())


def forget_other_requests(record: Record, task: PlannedTask, requests: str) -> bool:
    """Drop a record's score of a task that asked something else, and what was made from it; returns
    whether there was one."""
    name = task.spec.task
    found = record.quality.get(name)
    if found is None or found.identity != task.identity or found.requests in (None, requests):
        return False
    del record.quality[name]
    record.groups = {key: group for key, group in record.groups.items() if name not in group.tasks}
    return True


def _was_made_from(group: Group, record: Record) -> bool:
    """Whether a group's score was made from the scores that its tasks have."""
    made_from = group.identity.tasks
    now = {name: record.quality[name].identity.digest for name in group.tasks if name in record.quality}
    return bool(made_from == now)


def _keep_standing(record: Record, cell: Cell, plan: Plan) -> list[Failure]:
    """The failures that would come again: of stages to do, with everything as it was."""
    left = list_stages_left(record, plan)
    return [
        failure
        for failure in record.failures
        if failure.stage in left and failure.attempt == hash_attempt(cell, failure.stage, plan)
    ]


def hash_attempt(cell: Cell, stage: str, plan: Plan) -> str:
    """Hash of what the outcome of a stage depends on, besides the identity of its cell."""
    suite = plan.suite
    tried: dict[str, Any] = {"stage": stage, "device": suite.device}
    if stage == "prune":
        tried |= {"batch": suite.prune.batch_size, "code": cell.model.trust_remote_code}
        tried |= _writer(suite.calibration)
    elif stage == "heal":
        assert cell.heal is not None
        tried |= {"heal": cell.heal.model_dump(mode="json"), "code": cell.model.trust_remote_code}
        tried |= _writer(cell.heal.text(suite.calibration))
    elif stage == "serve":
        assert suite.serve is not None
        tried |= suite.serve.model_dump(mode="json")
        tried |= {"engine": engine_version(), "machine": _name_own_device(plan)}
    else:
        assert suite.score is not None
        every: list[PlannedTask | PlannedGroup] = [*plan.tasks, *plan.groups]
        (scored,) = [scored for scored in every if stage == stage_of(scored)]
        tried |= suite.score.model_dump(mode="json", exclude={"tasks", "include_path"})
        tried |= {"task": scored.identity.canonical(), "metric": scored.spec.metric}
    return digest(tried)


def _writer(data: CalibrationData) -> dict[str, str | None]:
    """The engine that writes a text; empty for one that no model writes."""
    return {"engine": engine_version()} if data.generated else {}


def judge(record: Record, plan: Plan) -> Literal["complete", "failed", "started"]:
    """What a record says of its cell as a whole."""
    if record.failures:
        return "failed"
    return "started" if list_stages_left(record, plan) else "complete"


def list_tasks_left(cell_record: Record | None, tasks: list[PlannedTask]) -> list[PlannedTask]:
    """The tasks that a record does not answer."""
    quality = cell_record.quality if cell_record else {}
    return [
        t for t in tasks if t.spec.task not in quality or quality[t.spec.task].identity != t.identity
    ]


def list_groups_left(record: Record | None, groups: list[PlannedGroup]) -> list[PlannedGroup]:
    """The groups whose scores a record lacks."""
    known = {name: group.identity for name, group in record.groups.items()} if record else {}
    return [group for group in groups if known.get(group.name) != group.identity]


def lacks_serving(record: Record | None, plan: Plan) -> bool:
    """Whether a record lacks the serving measurement that the plan wants."""
    if plan.suite.serve is None:
        return False
    if record is None or record.serving is None:
        return True
    known = record.serving.identity
    device = plan.served_on or _name_own_device(plan) or known.device
    wanted = serving_identity({}, plan.suite.serve, "", device)
    checkpoint = known.checkpoint if plan.suite.serve.per_checkpoint else None
    return known != wanted.model_copy(update={"config": known.config, "checkpoint": checkpoint})


def _name_own_device(plan: Plan) -> str | None:
    """Name of what vLLM computes on, where that is this machine."""
    return device_name() if plan.suite.executor.name == "local" else None


def list_stages_left(record: Record | None, plan: Plan) -> list[str]:
    """Names of the stages whose results a record lacks."""
    left = [] if record and record.prune else ["prune"]
    left += ["heal"] if record and record.identity.heal and record.heal is None else []
    left += map(stage_of, list_tasks_left(record, plan.tasks))
    left += map(stage_of, list_groups_left(record, plan.groups))
    return left + ["serve"] * lacks_serving(record, plan)


def list_stages_due(record: Record, plan: Plan) -> list[str]:
    """Names of the stages that a run does for a cell: what is left without what failed, no group of
    which a task failed, and nothing where there is no checkpoint to go on with."""
    failed = {failure.stage for failure in record.failures}
    failed |= {stage_of(g) for g in plan.groups if failed & {stage_of(task) for task in g.tasks}}
    left = list_stages_left(record, plan)
    return [] if failed & {"prune", "heal"} else [stage for stage in left if stage not in failed]
