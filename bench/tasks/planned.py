"""A task or group of tasks that is to be scored, and the identity of its score."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from typing import Any

from bench.tasks.catalog import TaskSource
from bench.tasks.groups import Group
from bench.tasks.identity import GroupIdentity, TaskIdentity
from bench.tasks.spec import SEEDS, Limit, PromptSpec, Seeds, TaskSpec
from replaceme.chat import USUAL_DAY


@dataclass(frozen=True)
class PlannedTask:
    """A task of the suite with where it was found.

    ``column``: whether it stands by itself, or is only a part of groups that do.
    """

    spec: TaskSpec
    source: TaskSource
    limit: Limit | None
    dtype: str | None = None
    seeds: Seeds = SEEDS
    column: bool = True
    day: date = USUAL_DAY
    unsafe_code: bool = False

    @property
    def name(self) -> str:
        return self.spec.task

    @property
    def identity(self) -> TaskIdentity:
        return TaskIdentity(
            task=self.spec.task,
            num_fewshot=self.spec.num_fewshot,
            limit=self.limit,
            seeds=self.seeds,
            prompt=self.prompt,
            dtype=self.dtype,
            data=self.source.fingerprint,
        )

    @property
    def prompt(self) -> dict[str, Any] | None:
        """Chat template and instruction; ``None`` where there is neither."""
        prompt = {name: getattr(self.spec, name) for name in PromptSpec.model_fields}
        if self.spec.apply_chat_template:
            prompt["date"] = self.day.isoformat()
        return prompt if any(prompt.values()) else None


@dataclass(frozen=True)
class PlannedGroup:
    """A group of tasks that has a score of its own."""

    spec: TaskSpec
    group: Group
    tasks: tuple[PlannedTask, ...]
    column: bool = True

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def identity(self) -> GroupIdentity:
        """What its score is made from, and how."""
        return GroupIdentity(
            group=self.name,
            prompt=self.tasks[0].prompt if self.tasks else None,
            aggregation=json.loads(json.dumps(self.group.aggregation, default=str)),
            tasks={task.name: task.identity.digest for task in self.tasks},
        )


def stage_of(scored: PlannedTask | PlannedGroup) -> str:
    """The name of the stage that scores a task, or makes a group's score from its tasks'."""
    return f"score:{scored.name}"
