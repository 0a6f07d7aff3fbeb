"""What a suite wants scored: single tasks, and the groups that they make up."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

from bench.suite.suite import ScoreSpec
from bench.tasks.catalog import UNSAFE, TaskSource, runs_code_of_models
from bench.tasks.groups import Group, expand, match_names
from bench.tasks.planned import PlannedGroup, PlannedTask
from bench.tasks.spec import TaskSpec
from replaceme.chat import USUAL_DAY
from replaceme.errors import InputError

WILD = frozenset("*?[")


class Wanted:
    """The tasks and groups of a suite, each once, and what to say about them.

    Attributes:
        tasks: single tasks, each of which is scored, resumed and failed by itself.
        groups: those that have a score of their own, those inside others too.
        notes: sentences.
    """

    def __init__(self, score: ScoreSpec | None, day: date = USUAL_DAY) -> None:
        self._score, self._day, self.notes = score, day, list[str]()
        self._tasks: dict[str, PlannedTask] = {}
        self._groups: dict[str, PlannedGroup] = {}
        for spec in map(score.asked, score.tasks) if score else []:
            for part in self._named(spec):
                if not self._is_refused(part):
                    self._add(part, spec, column=True)
        if score and not self._tasks:
            raise InputError(f"score.tasks: nothing is left to score. {' '.join(self.notes)}")

    @property
    def tasks(self) -> list[PlannedTask]:
        return list(self._tasks.values())

    @property
    def groups(self) -> list[PlannedGroup]:
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
        parts = [part for name in match_names(spec.task, folders) for part in expand(name, folders)]
        scored = [part for part in parts if isinstance(part, Group) and part.aggregation]
        inner = {name for group in scored for name in group.names}
        return [part for part in parts if part.name not in inner]

    def _is_refused(self, part: Group | TaskSource) -> bool:
        """Whether a task runs code that nobody has allowed; a note says so."""
        assert self._score
        if isinstance(part, Group) or self._score.confirm_run_unsafe_code:
            return False
        refused = runs_code_of_models(part)
        if refused:
            self.notes.append(f"{part.name} is not scored: {UNSAFE}")
        return refused

    def _add(self, part: Group | TaskSource, spec: TaskSpec, column: bool) -> list[PlannedTask]:
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
                self._groups[part.name] = PlannedGroup(own, part, tuple(dict.fromkeys(tasks)), column)
        return tasks

    def _add_task(self, source: TaskSource, spec: TaskSpec, column: bool) -> PlannedTask:
        assert self._score
        changes = {"task": source.name} if column else {"task": source.name, "metric": None}
        own = spec.model_copy(update=changes | {"average": spec.average and column})
        score = self._score
        task = PlannedTask(
            own,
            source,
            score.limit,
            score.dtype,
            score.seeds,
            column,
            self._day,
            score.confirm_run_unsafe_code,
        )
        known = self._tasks.setdefault(source.name, task)
        if known.identity != task.identity:
            raise InputError(
                f"score.tasks: the task {source.name!r} is asked for twice with different settings "
                f"(by itself or by groups); score one of them in a suite of its own."
            )
        if column and not known.column:
            self._tasks[source.name] = task
        return self._tasks[source.name]
