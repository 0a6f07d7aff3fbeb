"""What a name stands for, opened down to single tasks, as lm-eval's ``TaskManager`` builds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import filter as matching
from pathlib import Path
from typing import Any

from bench.tasks import index, task_yaml
from bench.tasks.catalog import (
    TaskSource,
    apply_overrides,
    find_definition,
    find_task,
    in_preset,
    is_known,
)
from replaceme.errors import InputError

NOT_OF_TASKS = {
    *("group", "group_alias", "aggregate_metric_list", "include"),
    *("task", "task_alias", "task_list", "tag"),
}
AGGREGATION = {"metric", "filter_list", "aggregation", "weight_by_size"}
MOST_MEMBERS = 50_000


@dataclass(frozen=True)
class Group:
    """A group with its members in their order.

    Attributes:
        aggregation: what it says of its own score, lm-eval's ``aggregate_metric_list``; empty: it has
            none, and its members stand for themselves.
    """

    name: str
    members: tuple[Group | TaskSource, ...]
    aggregation: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    version: str | None = None

    @property
    def tasks(self) -> list[TaskSource]:
        """Its single tasks at any depth, each once."""
        found: dict[str, TaskSource] = {}
        for member in self.members:
            inside = member.tasks if isinstance(member, Group) else [member]
            found |= {task.name: task for task in inside}
        return list(found.values())

    @property
    def groups(self) -> list[Group]:
        """The groups inside it at any depth."""
        inside = [member for member in self.members if isinstance(member, Group)]
        return [group for member in inside for group in (member, *member.groups)]

    @property
    def names(self) -> set[str]:
        """Of all tasks and groups inside it."""
        return {task.name for task in self.tasks} | {group.name for group in self.groups}


def match_names(pattern: str, include_path: list[Path]) -> list[str]:
    """The names that a pattern such as ``mmlu_*`` stands for, as for ``lm_eval --tasks``.

    Raises:
        InputError: for none.
    """
    names = matching([*index.read_builtin() | index.read_folders(tuple(include_path))], pattern)
    if not names:
        raise InputError(f"no task, group or tag has a name like {pattern!r}.")
    return sorted(names)


def expand(name: str, include_path: list[Path]) -> list[Group | TaskSource]:
    """A task, a group, or the tasks of a tag.

    Raises:
        InputError: the name is unknown, or a group names something unknown or contains itself.
    """
    if in_preset(name) and name not in index.read_folders(tuple(include_path)):
        return [find_task(name, include_path)]
    return list(_Expansion(include_path).of(name, {}, ()))


class _Expansion:
    def __init__(self, include_path: list[Path]) -> None:
        self._include_path, self._members = include_path, 0

    def of(self, name: str, overrides: dict[str, Any], inside: tuple[str, ...]) -> Iterator[Any]:
        """What a known name stands for with some settings changed in its tasks."""
        found = find_definition(name, self._include_path)
        if found.kind == "group":
            assert found.yaml
            config = task_yaml.read_whole(found.yaml)
            yield self._group(name, config, overrides, (*inside, name), found.yaml)
        elif found.kind == "tag":
            for task in found.members:
                yield self._task(task, overrides, name)
        else:
            yield self._task(name, overrides, inside[-1] if inside else name)

    def _task(self, name: str, overrides: dict[str, Any], group: str) -> TaskSource:
        self._count(group)
        return apply_overrides(find_task(name, self._include_path), overrides, group, self._include_path)

    def _group(
        self,
        name: str,
        config: Mapping[str, Any],
        overrides: dict[str, Any],
        inside: tuple[str, ...],
        yaml: Path,
    ) -> Group:
        if name in inside[:-1]:
            raise InputError(f"the group {name!r} contains itself, through {inside[-2]!r}.")
        self._count(inside[0])
        own = {k: v for k, v in config.items() if k not in NOT_OF_TASKS and k != "metadata"}
        found: dict[str, Group | TaskSource] = {}
        members = config.get("task")
        for member in members if isinstance(members, list) else []:
            for made in self._member(member, own | overrides, inside, yaml):
                found[made.name] = made
        metadata = config.get("metadata")
        version = metadata.get("version") if isinstance(metadata, dict) else None
        return Group(
            name,
            tuple(found.values()),
            tuple(_aggregation(config.get("aggregate_metric_list"), name, yaml)),
            None if version is None else str(version),
        )

    def _member(
        self, member: Any, overrides: dict[str, Any], inside: tuple[str, ...], yaml: Path
    ) -> Iterator[Any]:
        """What an entry of a group's ``task`` stands for: a name, or a mapping with task or group."""
        group = inside[-1]
        said = {"task": member} if isinstance(member, str) else member
        key = "group" if isinstance(said, dict) and "group" in said else "task"
        name = said.get(key) if isinstance(said, dict) else None
        if not isinstance(name, str):
            raise InputError(
                f"{yaml}: the group {group!r} has a member that is neither a name nor a mapping with "
                f"the name of a task or group."
            )
        settings = overrides | {k: v for k, v in said.items() if k not in NOT_OF_TASKS}
        if is_known(name, self._include_path):
            yield from self.of(name, settings, inside)
        elif key == "group":
            inner = f"{group}::{name}"
            yield self._group(inner, said, overrides, (*inside, inner), yaml)
        elif "dataset_path" in settings:
            self._count(group)
            source = TaskSource(name, yaml, "")
            yield apply_overrides(source, settings, group, self._include_path)
        else:
            find_definition(name, self._include_path, f"{yaml}: the group {group!r} names an ")

    def _count(self, group: str) -> None:
        self._members += 1
        if self._members > MOST_MEMBERS:
            raise InputError(f"the group {group!r} has more than {MOST_MEMBERS:,} members.")


def _aggregation(said: Any, group: str, yaml: Path) -> list[Mapping[str, Any]]:
    """What a group says of its own score."""
    metrics = said if isinstance(said, list) else [said] if said else []
    for metric in metrics:
        if not isinstance(metric, dict) or "metric" not in metric or set(metric) - AGGREGATION:
            raise InputError(
                f"{yaml}: the group {group!r}: aggregate_metric_list is a list of mappings with metric "
                f"and, if need be, {', '.join(sorted(AGGREGATION - {'metric'}))}."
            )
    return metrics
