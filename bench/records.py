"""What is known about one cell: a versioned record."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from bench.names import cell_name
from bench.serving import ServingIdentity, ServingResult, Workload, find_noise
from bench.tasks.identity import GroupIdentity, TaskIdentity
from replaceme.facts import Divergence, HealFacts, Number, PruneFacts
from replaceme.io.auto import AutoClass
from replaceme.recipe import Identity

SCHEMA_VERSION = 8


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Known(_Open):
    """What readers look for in an environment, where there may be more."""

    packages: dict[str, Any] = {}


def _parts(value: dict[str, Any]) -> dict[str, Any]:
    try:
        _Known.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    return value


Parts = Annotated[dict[str, Any], AfterValidator(_parts)]


class Prune(PruneFacts):
    """What was removed, how well the transform fits, and what was written."""

    model_config = ConfigDict(extra="forbid")

    reloaded_loss: Number = Field(
        None,
        description="nats per token of the checkpoint loaded again, on the held-back tokens, or on some "
        "that were fitted on where there are none; null: not compared",
    )
    peak_memory_bytes: int | None = Field(
        None, description="peak resident bytes of the process up to the end of this stage"
    )
    peak_device_memory_bytes: int | None = Field(
        None, description="peak bytes allocated on all GPUs up to the same point; null: on no GPU"
    )
    dtype: str = Field(description="of the saved weights")
    parameters: int = Field(description="stored parameters, tied ones once")
    checkpoint_bytes: int = Field(description="bytes of the safetensors files")
    loaded_with: AutoClass | None = Field(
        None, description="class of transformers that loads the checkpoint; null: by an older release"
    )


class Heal(HealFacts):
    """What was trained after pruning, and what came of it."""

    reloaded_loss: Number = Field(
        None,
        description="nats per token of the checkpoint loaded again, on the held-back tokens, or on some "
        "that were fitted on where there are none; null: not compared",
    )
    peak_memory_bytes: int | None = Field(
        None, description="peak resident bytes of the process up to the end of this stage"
    )
    peak_device_memory_bytes: int | None = Field(
        None, description="peak bytes allocated on all GPUs up to the same point; null: on no GPU"
    )


class Metric(_Part):
    value: Number
    stderr: Number
    higher_is_better: bool | None


class _Scored(_Part):
    """What a table has a column for."""

    primary: str = Field(description="the metric that counts")
    average: bool = Field(description="whether it counts in the average")
    column: bool = Field(
        True, description="false: only a part of groups, neither in tables nor in the average by itself"
    )

    @model_validator(mode="after")
    def _has_primary(self) -> Self:
        metrics = getattr(self, "metrics", {})
        if self.primary not in metrics:
            raise ValueError(f"metrics lacks {self.primary!r}, the metric that counts")
        return self


class Flips(_Part):
    """Items of a task, and those with another chosen answer than the intact model's."""

    metric: str = Field(description="the metric whose answers are compared")
    items: int
    changed: int = Field(description="items with another chosen answer")
    right_to_wrong: int | None = Field(None, description="of them; null: the metric is not 0 or 1")
    wrong_to_right: int | None = None
    wrong_to_wrong: int | None = Field(None, description="from one wrong answer to another")


class Generation(_Part):
    """How the texts came about that a task asked for, and what they are like."""

    engine: Literal["vllm", "transformers"] = Field(description="what wrote them")
    engine_version: str | None
    texts: int = Field(description="number of texts")
    cut_off: Number = Field(
        description="share of texts that ended for want of room (max_gen_toks), 0 to 1"
    )
    mean_tokens: Number = Field(description="tokens of a text, with those of its stop sequence")
    distinct_4grams: Number = Field(
        description="share of different ones among the runs of 4 tokens of a text, 0 to 1, the mean "
        "over the texts of at least 4 tokens; low where a model repeats itself; null: no text is as long"
    )
    truncated: int | None = Field(
        None, description="prompts that were too long and lost their beginning; null: not counted"
    )
    seconds: float | None = Field(None, description="that the engine wrote for; null: part of seconds")
    weights: Literal["engine", "swap"] | None = Field(
        None,
        description="engine: started on this checkpoint; swap: the weights were put into an engine that "
        "ran; null: no vLLM",
    )
    reason: str | None = Field(
        None, description="why it was transformers, or why an engine was started for this cell alone"
    )


class Task(_Scored):
    """One task's scores."""

    identity: TaskIdentity
    metrics: dict[str, Metric] = Field(description="accuracies as fractions of 1")
    items: int
    version: str | None = Field(description="lm-eval's version of the task")
    num_fewshot: int
    seconds: float = Field(description="of metrics and, checkpoint by checkpoint, of answers")
    method: Literal["one-pass", "per-variant", "texts"] = Field(
        "per-variant",
        description="texts: only texts were asked for, and generation says what wrote them",
    )
    reason: str | None = Field(None, description="why it was not scored in one pass")
    generation: Generation | None = Field(None, description="null: no texts were asked for")
    dtype: str | None = Field(None, description="computed in; null: that of the checkpoint")
    requests: str | None = Field(
        None,
        description="SHA-256 of what was asked, with the items, whatever their data set is called",
    )
    files: dict[str, str] = Field(
        default={},
        description="SHA-256 of the files below its folder that the task read, by path from there",
    )
    sampled_batch: int | None = Field(
        None, description="score.batch_size where answers are drawn at random; null: none are"
    )
    flips: Flips | None = Field(
        None, description="against the intact model's answers; null: not kept on both sides"
    )
    divergence: Divergence | None = Field(
        None,
        description="from the intact model at every predicted token of every request; null: not scored "
        "in one pass, or by an older release",
    )
    pass_seconds: float | None = Field(
        None,
        description="of computing the answers of all its variants that no task before it asked for, "
        "added over workers",
    )
    pass_variants: int | None = Field(None, description="how many these were")
    peak_memory_bytes: int | None = Field(
        None, description="peak resident bytes of the process up to the end of this stage"
    )
    peak_device_memory_bytes: int | None = Field(
        None, description="peak bytes allocated on all GPUs up to the same point; null: on no GPU"
    )


class GroupMetric(Metric):
    weight_by_size: bool = Field(description="false: every task counts the same, whatever its size")


class Group(_Scored):
    """The scores of a group of tasks: lm-eval's own aggregation of theirs."""

    identity: GroupIdentity
    metrics: dict[str, GroupMetric] = Field(description="accuracies as fractions of 1")
    members: list[str] = Field(description="tasks and groups that it names")
    tasks: list[str] = Field(description="all single tasks in it")
    items: int = Field(description="of all its tasks")
    version: str | None = Field(description="lm-eval's version of the group")
    num_fewshot: int | None = Field(description="of its tasks; null: not the same in all")
    dtype: str | None = Field(None, description="computed in; null: not the same in all")


class Serving(_Part):
    """A serving measurement; ``measured_on`` names the cell whose checkpoint was served."""

    identity: ServingIdentity
    measured_on: str
    processes: list[ServingResult] = Field(min_length=1, description="one for each engine process")

    @cached_property
    def result(self) -> ServingResult:
        """All engine processes as one."""
        return ServingResult.pooled(self.processes)

    @cached_property
    def noise(self) -> dict[Workload, str]:
        """What disturbed the timed runs, for the workloads whose times are in no ranking therefore."""
        return find_noise(self.result)


class Failure(_Part):
    stage: str = Field(description="prune, heal, score:TASK, score:GROUP, or serve")
    error: str
    traceback: str | None = None
    attempt: str | None = Field(
        None, description="hash of what was tried; a run leaves it alone until that changes"
    )


class Record(_Part):
    """Everything known about one cell."""

    schema_version: int = SCHEMA_VERSION
    model: str
    model_id: str
    layers: int = Field(description="decoder layers removed; 0: the baseline")
    label: str
    identity: Identity = Field(description="the model and what was made of it")
    status: Literal["complete", "failed", "started"] = "started"
    failures: list[Failure] = []
    prune: Prune | None = None
    heal: Heal | None = Field(None, description="null: nothing was trained, or not yet")
    quality: dict[str, Task] = {}
    groups: dict[str, Group] = Field(
        default={}, description="groups of these tasks that have a score of their own"
    )
    serving: Serving | None = None
    environment: Parts = {}
    runtime: dict[str, Any] = Field(
        default={}, description="what does not change numbers: batch sizes …"
    )
    updated: str | None = Field(None, description="UTC time of the last change")

    @model_validator(mode="after")
    def _has_tasks_of_groups(self) -> Self:
        for name, group in self.groups.items():
            lacking = [task for task in group.tasks if task not in self.quality]
            if lacking or not any(group.primary in self.quality[t].metrics for t in group.tasks):
                raise ValueError(f"groups.{name}: quality lacks {(lacking or [group.primary])[0]!r}")
        return self

    @property
    def name(self) -> str:
        return cell_name(self.model, self.layers, self.label)

    @property
    def is_made(self) -> bool:
        """Whether there is a checkpoint of it to measure."""
        return self.prune is not None and (self.identity.heal is None or self.heal is not None)

    @property
    def loss(self) -> float | None:
        """Nats per held-back token of the calibration text, with all that was done to the model."""
        found = self.prune.loss if self.prune else None
        if self.heal and self.identity.heal:
            found = None if self.identity.heal.text else self.heal.loss
        return found[1] if found else None

    @property
    def divergence(self) -> float | None:
        """KL from the intact model in nats on the same tokens, their mean."""
        if self.heal and self.identity.heal:
            healed = None if self.identity.heal.text else self.heal.divergence
            return healed[1] if healed else None
        return self.prune.divergence.mean if self.prune and self.prune.divergence else None

    @property
    def warning(self) -> str | None:
        """Why it should not be trusted, or what went wrong when it was made."""
        said = [self.prune.warning if self.prune else None, self.heal.warning if self.heal else None]
        return "; ".join(filter(None, said)) or None

    @property
    def unmade(self) -> Failure | None:
        """Why there is none."""
        return self.failed("prune") or self.failed("heal")

    @property
    def scores(self) -> dict[str, Task | Group]:
        """What tables have columns for: groups, each where its first task stands, and other tasks."""
        found: dict[str, Task | Group] = {}
        shown = {name: (group, set(group.tasks)) for name, group in self.groups.items() if group.column}
        for task, scored in self.quality.items():
            found |= {name: group for name, (group, tasks) in shown.items() if task in tasks}
            if scored.column:
                found[task] = scored
        return found

    def failed(self, stage: str) -> Failure | None:
        return next((failure for failure in self.failures if failure.stage == stage), None)
