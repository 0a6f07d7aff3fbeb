"""What a suite wants scored: single tasks, and the groups that they make up."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from bench.scoring.catalog import TaskSource
from bench.scoring.groups import Group, expand, matched
from bench.suite.suite import SEEDS, PromptSpec, ScoreSpec, Seeds, TaskSpec
from replaceme.chat import USUAL_DAY
from replaceme.errors import InputError

WILD = frozenset("*?[")


def digest(identity: dict[str, Any]) -> str:
    """Short stable hash of an identity."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Task:
    """A task of the suite with where it was found.

    ``column``: whether it stands by itself, or is only a part of groups that do.
    """

    spec: TaskSpec
    source: TaskSource
    limit: int | None
    dtype: str | None = None
    seeds: Seeds = SEEDS
    column: bool = True
    day: date = USUAL_DAY

    @property
    def name(self) -> str:
        return self.spec.task

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "task": self.spec.task,
            "num_fewshot": self.spec.num_fewshot,
            "limit": self.limit,
            "seeds": list(self.seeds),
            "prompt": self.prompt,
            "dtype": self.dtype,
            "data": self.source.fingerprint,
        }

    @property
    def prompt(self) -> dict[str, Any] | None:
        """Chat template and instruction; ``None`` where there is neither."""
        prompt = {name: getattr(self.spec, name) for name in PromptSpec.model_fields}
        if self.spec.apply_chat_template:
            prompt["date"] = self.day.isoformat()
        return prompt if any(prompt.values()) else None


@dataclass(frozen=True)
class TaskGroup:
    """A group of tasks that has a score of its own."""

    spec: TaskSpec
    group: Group
    tasks: tuple[Task, ...]
    column: bool = True

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def identity(self) -> dict[str, Any]:
        """What its score is made from, and how."""
        return {
            "group": self.name,
            "prompt": self.tasks[0].prompt if self.tasks else None,
            "aggregation": json.loads(json.dumps(self.group.aggregation, default=str)),
            "tasks": {task.name: digest(task.identity) for task in self.tasks},
        }


class Wanted:
    """The tasks and groups of a suite, each once, and what to say about them.

    Attributes:
        tasks: single tasks, each of which is scored, resumed and failed by itself.
        groups: those that have a score of their own, those inside others too.
        notes: sentences.
    """

    def __init__(self, score: ScoreSpec | None, day: date = USUAL_DAY) -> None:
        self._score, self._day, self.notes = score, day, list[str]()
        self._tasks: dict[str, Task] = {}
        self._groups: dict[str, TaskGroup] = {}
        for spec in map(score.asked, score.tasks) if score else []:
            for part in self._named(spec):
                self._add(part, spec, column=True)

    @property
    def tasks(self) -> list[Task]:
        return list(self._tasks.values())

    @property
    def groups(self) -> list[TaskGroup]:
        return [
            replace(group, tasks=tuple(self._tasks[task.name] for task in group.tasks))
            for group in self._groups.values()
        ]

    def _named(self, spec: TaskSpec) -> list[Group | TaskSource]:
        """What a spec names; of what a pattern matches, nothing that is in a matching group."""
        assert self._score
        folders: list[Path] = self._score.include_path
        if not WILD & set(spec.task):
            return expand(spec.task, folders)
        parts = [part for name in matched(spec.task, folders) for part in expand(name, folders)]
        scored = [part for part in parts if isinstance(part, Group) and part.aggregation]
        inner = {name for group in scored for name in group.names}
        return [part for part in parts if part.name not in inner]

    def _add(self, part: Group | TaskSource, spec: TaskSpec, column: bool) -> list[Task]:
        """Add a task or group with all that is in it; returns its single tasks."""
        if isinstance(part, TaskSource):
            return [self._add_task(part, spec, column)]
        scored = bool(part.aggregation)
        if column and not scored:
            self.notes.append(
                f"The group {part.name!r} has no score of its own in lm-eval; its "
                f"{len(part.members)} members have."
            )
        tasks = [task for m in part.members for task in self._add(m, spec, column and not scored)]
        if scored:
            own = spec.model_copy(update={"task": part.name, "average": spec.average and column})
            known = self._groups.get(part.name)
            if known is None or column:
                self._groups[part.name] = TaskGroup(own, part, tuple(dict.fromkeys(tasks)), column)
        return tasks

    def _add_task(self, source: TaskSource, spec: TaskSpec, column: bool) -> Task:
        assert self._score
        changes = {"task": source.name} if column else {"task": source.name, "metric": None}
        own = spec.model_copy(update=changes | {"average": spec.average and column})
        score = self._score
        task = Task(own, source, score.limit, score.dtype, score.seeds, column, self._day)
        known = self._tasks.setdefault(source.name, task)
        if known.identity != task.identity:
            raise InputError(
                f"score.tasks: the task {source.name!r} is asked for twice with different settings "
                f"(by itself or by groups); score one of them in a suite of its own."
            )
        if column and not known.column:
            self._tasks[source.name] = task
        return self._tasks[source.name]


def stage_of(scored: Task | TaskGroup) -> str:
    """The name of the stage that scores a task, or makes a group's score from its tasks'."""
    return f"score:{scored.name}"
