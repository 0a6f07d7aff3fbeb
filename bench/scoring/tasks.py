"""lm-eval's tasks: their requests, and their scores on whatever answers them."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.scoring.catalog import TaskSource, yaml_of
from bench.scoring.metrics import primary_metric
from bench.suite import TaskSpec

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

BOOTSTRAPS = 1000  # resamples for the standard error of metrics that are not means


@dataclass(frozen=True)
class TaskScore:
    """One task on one checkpoint.

    Attributes:
        metrics: name → {value, stderr (``None`` if unknown), higher_is_better}; accuracies in [0, 1].
        primary: the metric that counts.
        items: number of items scored.
        samples: {"doc_id": […], metric: […]}, per-item scores in the order of the items.
    """

    metrics: dict[str, dict[str, Any]]
    primary: str
    items: int
    version: str | None
    num_fewshot: int
    samples: dict[str, list[Any]]
    seconds: float


class PreparedTask:
    """An lm-eval task with its requests, which are built once for all models and variants."""

    def __init__(self, spec: TaskSpec, source: TaskSource, limit: int | None) -> None:
        from lm_eval.defaults import DEFAULT_OTHER_SEED
        from lm_eval.tasks import TaskManager

        self.spec, self._limit = spec, limit
        manager = TaskManager(include_defaults=False)
        path = yaml_of(source).resolve()
        with contextlib.chdir(path.parent):  # relative data_files are relative to the YAML
            (self._task,) = manager.load([str(path)])["tasks"].values()
        shots = spec.num_fewshot
        shots = self._task.get_config("num_fewshot") if shots is None else shots
        self._task.set_config(key="num_fewshot", value=shots or 0)
        self._task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        self._task.build_all_requests(limit=limit)
        self._task.build_all_requests = self._rewind

    def _rewind(self, **_: Any) -> None:
        """Takes the place of building the requests again."""
        for instance in self.instances:
            instance.resps, instance.filtered_resps = [], {}

    @property
    def instances(self) -> list[Instance]:
        return self._task.instances

    @property
    def kinds(self) -> set[str]:
        """What the task asks a model for, in lm-eval's names."""
        return {instance.request_type for instance in self.instances}

    def score(self, model: LM, bootstraps: int = BOOTSTRAPS) -> TaskScore:
        """Have a model answer, as lm-eval's ``simple_evaluate`` does but for its environment report.

        Raises:
            InputError: the task does not report the metric that its spec names.
        """
        from lm_eval import evaluate

        start = time.perf_counter()
        output = evaluate(
            lm=model,
            task_dict={"tasks": {self.spec.task: self._task}, "groups": {}},
            limit=self._limit,
            bootstrap_iters=bootstraps,
        )
        return _task_score(self.spec, output, time.perf_counter() - start)


def _task_score(task: TaskSpec, output: dict[str, Any], seconds: float) -> TaskScore:
    name = task.task
    results = output["results"][name]
    directions = output["higher_is_better"][name]
    metrics = {}
    for key, value in results.items():
        metric, _, chain = key.partition(",")
        if not chain or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = results.get(f"{metric}_stderr,{chain}")
        metrics[metric if chain == "none" else key] = {
            "value": float(value),
            "stderr": float(stderr) if isinstance(stderr, int | float) else None,
            "higher_is_better": directions.get(metric),
        }
    samples = output["samples"][name]
    columns: dict[str, list[Any]] = {"doc_id": [sample["doc_id"] for sample in samples]}
    for metric in metrics:
        if all(isinstance(sample.get(metric), int | float) for sample in samples):
            columns[metric] = [round(float(sample[metric]), 6) for sample in samples]
    version = output["versions"].get(name)
    return TaskScore(
        metrics,
        primary_metric(task, metrics),
        len({sample["doc_id"] for sample in samples}),
        None if version is None else str(version),
        int(output["n-shot"].get(name) or 0),
        columns,
        seconds,
    )
