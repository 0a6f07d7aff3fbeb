"""lm-eval on one checkpoint: the only module that imports it."""

from __future__ import annotations

import contextlib
import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.scoring.catalog import TaskSource, yaml_of
from bench.scoring.metrics import primary_metric
from bench.suite import TaskSpec

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


class CheckpointScorer:
    """A loaded checkpoint that answers lm-eval tasks one after the other."""

    def __init__(
        self, folder: Path, *, dtype: str, device: str, batch_size: int, trust_remote_code: bool = False
    ) -> None:
        from lm_eval.models.huggingface import HFLM

        self._model = HFLM(
            pretrained=str(folder),
            dtype=dtype,
            device=None if device == "auto" else device,
            parallelize=device == "auto",
            batch_size=batch_size,
            trust_remote_code=trust_remote_code,
        )

    def score(self, task: TaskSpec, source: TaskSource, limit: int | None) -> TaskScore:
        """Run a task, as lm-eval's ``simple_evaluate`` does but for its seconds of environment report.

        Raises:
            InputError: the task does not report ``task.metric``.
        """
        from lm_eval import evaluate
        from lm_eval.defaults import DEFAULT_OTHER_SEED
        from lm_eval.tasks import TaskManager

        start = time.perf_counter()
        manager = TaskManager(include_defaults=False)
        path = yaml_of(source).resolve()
        with contextlib.chdir(path.parent):  # relative data_files are relative to the YAML
            (loaded,) = manager.load([str(path)])["tasks"].values()
        shots = task.num_fewshot if task.num_fewshot is not None else loaded.get_config("num_fewshot")
        loaded.set_config(key="num_fewshot", value=shots or 0)
        loaded.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        output = evaluate(
            lm=self._model,
            task_dict={"tasks": {task.task: loaded}, "groups": {}},
            limit=limit,
            bootstrap_iters=BOOTSTRAPS,
        )
        return _task_score(task, output, time.perf_counter() - start)

    def close(self) -> None:
        """Free the model's memory."""
        import torch

        del self._model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


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
