"""What a score depends on, besides the model."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from replaceme.recipe import Part


class ScoreIdentity(Part):
    """What identities of tasks and of groups have in common.

    Attributes:
        prompt: chat template and instruction; ``None``: neither.
        limit: items at most; ``None``: all.
        data: fingerprint of the task's own files, or lm-eval's release for one of its tasks.
    """

    prompt: dict[str, Any] | None = None
    limit: int | float | None = None
    data: str | None = None


class TaskIdentity(ScoreIdentity):
    """Of a task's score.

    Attributes:
        num_fewshot: examples that were asked for; ``None``: the task's own number.
        seeds: as in ``score.seed``; ``None``: not recorded.
        dtype: that was asked for; ``None``: the suite's choice.
    """

    task: str | None = None
    num_fewshot: int | None = None
    seeds: tuple[int | None, ...] | None = None
    dtype: str | None = None


class GroupIdentity(ScoreIdentity):
    """Of a group's score.

    Attributes:
        aggregation: how it is made from those of its tasks.
        tasks: name → digest of the task's identity.
    """

    group: str | None = None
    aggregation: list[Any] = Field(default_factory=list)
    tasks: dict[str, str] = Field(default_factory=dict)
