"""lm-eval's own preparation of a task: everything that ``lm_eval`` does before it asks the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from replaceme.errors import InputError

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks.manager import TaskDict


class _Prepared(Exception):  # noqa: N818
    """The task has its requests."""


class _Asked(LM):
    """A model that is asked nothing: the first request ends the preparation."""

    def loglikelihood(self, _: Any) -> NoReturn:
        raise _Prepared

    loglikelihood_rolling = generate_until = loglikelihood


class _Manager(TaskManager):
    """Keeps the tasks that lm-eval has it load."""

    loaded: dict[str, Task]

    def load(self, task_list: Any) -> TaskDict:
        found = super().load(task_list)
        self.loaded = found["tasks"]
        return found


def prepare(asked: str | dict[str, Any], folders: list[str], **settings: Any) -> Task:
    """A task with its requests, as ``simple_evaluate`` makes it: seeds set, few-shot rules applied.

    Args:
        asked: the path of its YAML file, or what a ``TaskManager`` takes for it.
        folders: with the YAML files that ``asked`` names.
        settings: of ``simple_evaluate``.
    """
    manager = _Manager(include_path=folders, include_defaults=False)
    try:
        simple_evaluate(_Asked(), tasks=[asked], task_manager=manager, **settings)
    except _Prepared:
        (task,) = manager.loaded.values()
        return task
    raise InputError("it asks the model for nothing.")
