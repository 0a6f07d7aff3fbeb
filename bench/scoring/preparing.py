"""lm-eval's own preparation of a task: everything that ``lm_eval`` does before it asks the model."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any, NoReturn

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from replaceme.chat import USUAL_DAY, template_options
from replaceme.errors import InputError

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks.manager import TaskDict


class _Prepared(Exception):  # noqa: N818
    """The task has its requests."""


class _Asked(LM):
    """Has a model's chat template, and is asked nothing: the first request ends the preparation."""

    def __init__(self, model: HFLM | None) -> None:
        super().__init__()
        self._model = model

    def loglikelihood(self, _: Any) -> NoReturn:
        raise _Prepared

    loglikelihood_rolling = generate_until = loglikelihood

    @property
    def tokenizer_name(self) -> str:
        return self._model.tokenizer_name if self._model else ""

    def apply_chat_template(self, *arguments: Any, **options: Any) -> str:
        assert self._model
        return str(self._model.apply_chat_template(*arguments, **options))


class _Manager(TaskManager):
    """Keeps the tasks that lm-eval has it load."""

    loaded: dict[str, Task]

    def load(self, task_list: Any) -> TaskDict:
        found = super().load(task_list)
        self.loaded = found["tasks"]
        return found


def prepare(
    asked: str | dict[str, Any],
    folders: list[str],
    model: HFLM | None = None,
    day: date = USUAL_DAY,
    **settings: Any,
) -> Task:
    """A task with its requests, as ``simple_evaluate`` makes it: seeds set, few-shot rules applied.

    Args:
        asked: the path of its YAML file, or what a ``TaskManager`` takes for it.
        folders: with the YAML files that ``asked`` names.
        model: whose chat template is used, if one is.
        day: that the template takes for today.
        settings: of ``simple_evaluate``.

    Raises:
        InputError: the model has not the chat template that is asked for, or the task has no requests.
    """
    if template := settings.get("apply_chat_template"):
        assert model
        _check_template(model.tokenizer, template)
        model.chat_template_args |= template_options(model.tokenizer, day)
    manager = _Manager(include_path=folders, include_defaults=False)
    try:
        simple_evaluate(_Asked(model), tasks=[asked], task_manager=manager, **settings)
    except _Prepared:
        (task,) = manager.loaded.values()
        return task
    raise InputError("it asks the model for nothing.")


def _check_template(tokenizer: Any, wanted: bool | str) -> None:
    """Refuse a chat template that a tokenizer has not.

    Raises:
        InputError: it has none, or none of that name, or none that is used without a name.
    """
    known = getattr(tokenizer, "chat_template", None)
    if not known:
        raise InputError("the model's tokenizer has no chat template (apply_chat_template).")
    if not isinstance(known, dict):
        if wanted is not True:
            raise InputError(
                f"the model's tokenizer has one chat template, and none named {wanted!r}; say "
                f"apply_chat_template: true."
            )
        return
    if (name := "default" if wanted is True else wanted) not in known:
        raise InputError(
            f"the model's tokenizer has no chat template named {name!r}; it has {', '.join(known)}."
        )
