"""Records for the tests of charts and page: any number of cells, tasks, models and devices."""

from __future__ import annotations

from typing import Any

from bench.records import Failure, Metric, Prune, Record, Serving, Task
from bench.serving import ServingResult
from bench.tasks.identity import TaskIdentity
from replaceme.recipe import Identity, IntactModel

SETTINGS = {
    "max_model_len": 192,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 1024,
    "block_size": 16,
    "kv_cache_dtype": "auto",
    "enable_prefix_caching": False,
    "enable_chunked_prefill": True,
    "enforce_eager": True,
    "compilation_mode": "NONE",
    "tensor_parallel_size": 1,
}
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    '"onmouseover="alert(3)',
    "{{7*7}}",
    'datum["x"]',
    "a.b[0]['c']",
    "<!--<script>",
    "x\ny | `z` \\u003c & é ’",
    "constructor",
    "w" * 300,
]


def serving(
    latency: float, weights: float = 250e6, device: str = "CPU, 2 cores", processes: int = 1
) -> Serving:
    """Measurements of two workloads with three timed runs in each process.

    Args:
        latency: median seconds of a batch of 1 in the first process; each further one takes 10 % more.
    """
    return Serving(
        identity={"config": f"{weights}", "device": device},
        measured_on="m/1/x",
        processes=[_result(latency * (1 + 0.1 * i), weights, device) for i in range(processes)],
    )


def _result(latency: float, weights: float, device: str) -> ServingResult:
    return ServingResult.model_validate(
        {
            "engine": "vllm",
            "engine_version": "0.32.0",
            "device": device,
            "dtype": "bfloat16",
            "threads": 2,
            "start_seconds": 3.0,
            "engine_settings": SETTINGS,
            "workloads": [_load(latency * factor, batch) for batch, factor in ((1, 1), (8, 2))],
            "replay_cached_tokens": 0,
            "memory": {
                "weights_bytes": int(weights),
                "kv_bytes_per_token": 23_040,
                "kv_capacity_tokens": 40_000,
                "kv_pool_bytes": 2**30,
                "peak_process_memory_bytes": None,
                "peak_device_memory_bytes": None,
            },
        }
    )


def _load(latency: float, batch: int) -> dict[str, Any]:
    runs = [0.98 * latency, latency, 1.02 * latency]
    return {
        "workload": {"input_len": 128, "output_len": 64, "batch_size": batch},
        "latency_seconds": _times(runs),
        "ttft_seconds": _times([0.2 * run for run in runs]),
        "tpot_seconds": _times([0.8 * run / 63 for run in runs]),
        "output_tokens_per_second": 64 * batch / latency,
        "requests_per_second": batch / latency,
    }


def _times(values: list[float]) -> dict[str, Any]:
    return {"values": values, "p50": values[1], "p90": values[2], "p99": values[2]}


def distances(layers: int) -> list[list[float | None]]:
    """[size − 1][start − 1], with the least of every size in the middle of the model."""
    return [
        [
            round(0.02 * size + 0.002 * abs(2 * start + size - layers), 5)
            for start in range(1, layers - size + 1)
        ]
        for size in range(1, layers)
    ]


def cell(label: str, layers: int, scores: dict[str, float | None], **changes: Any) -> Record:
    """A complete record with 100 items a task; its model has 16 layers."""
    quality = {
        name: Task(
            identity={},
            primary="acc",
            average=True,
            metrics={"acc": Metric(value=score, stderr=0.03, higher_is_better=True)},
            items=100,
            version="1.0",
            num_fewshot=0,
            seconds=1.0,
        )
        for name, score in scores.items()
    }
    start = 1 + (15 - layers) // 2
    prune = Prune(
        blocks=[(start, start + layers)] if layers else [],
        score=0.1 if layers else None,
        distances=distances(16) if layers else None,
        loss=(3.9, 3.5) if layers else None,
        intact_loss=3.1 if layers else None,
        relative_error=(0.2, 0.1) if layers else None,
        dtype="bfloat16",
        parameters=134_000_000 - 3_500_000 * layers,
        checkpoint_bytes=268_000_000,
    )
    step = {
        "kind": "prune",
        "layers": layers,
        "blocks": [],
        "selector": "angular",
        "num_blocks": 1,
        "compat": None,
        "calibration_dtype": None,
        "solver": {"name": "lstsq", "version": 1, "parameters": {"ridge": 0.5}},
        "calibration": {"samples": 16, "max_length": 32, "seed": 42, "data": "hub:org/text@main"},
    }
    model = {"weights": "hub:org/m@main", "dtype": None}
    identity = {"model": model, "recipe": [step] if layers else []}
    options = {"model": "m", "model_id": "org/m", "identity": identity, "status": "complete"}
    options |= {"prune": prune, "updated": "2026-11-25T07:00:00+00:00"}
    return Record(label=label, layers=layers, quality=quality, **(options | changes))


def change_step(record: Record, **changes: Any) -> None:
    """Have a record say something else of how it was pruned."""
    (step,) = record.identity.recipe
    record.identity = Identity.model_validate(
        {"model": record.identity.model, "recipe": [step.canonical() | changes]}
    )


def change_solver(record: Record, **changes: Any) -> None:
    assert record.identity.prune
    change_step(record, solver=record.identity.prune.solver.canonical() | changes)


def change_calibration(record: Record, **changes: Any) -> None:
    assert record.identity.prune
    change_step(record, calibration=record.identity.prune.calibration.canonical() | changes)


def change_model(record: Record, **changes: Any) -> None:
    """Have a record say something else of the intact model."""
    model = IntactModel.model_validate(record.identity.model.canonical() | changes)
    record.identity = Identity(model=model, recipe=record.identity.recipe)


def change_task(task: Task, **changes: Any) -> None:
    """Have a score say something else of what was asked."""
    task.identity = TaskIdentity.model_validate(task.identity.canonical() | changes)


def failed(label: str, layers: int, error: str, stage: str = "prune", **changes: Any) -> Record:
    """A record of a cell that has nothing but its failure."""
    failure = Failure(stage=stage, error=error)
    return cell(
        label, layers, {}, **({"prune": None, "status": "failed", "failures": [failure]} | changes)
    )


def matrix(served: bool = True, **changes: Any) -> list[Record]:
    """A baseline and two solvers at two cuts, served in two processes."""
    scores: list[tuple[str, int, dict[str, float | None]]] = [
        ("baseline", 0, {"a": 0.8, "b": 0.6}),
        ("uidl", 2, {"a": 0.6, "b": 0.4}),
        ("lstsq", 2, {"a": 0.7, "b": 0.5}),
        ("uidl", 4, {"a": 0.3, "b": 0.3}),
        ("lstsq", 4, {"a": 0.5, "b": 0.3}),
    ]
    seconds = {0: 2.0, 2: 1.6, 4: 1.0}
    return [
        cell(
            label,
            cut,
            found,
            serving=serving(seconds[cut], 270e6 - 10e6 * cut, processes=2) if served else None,
            **changes,
        )
        for label, cut, found in scores
    ]


def hostile() -> list[Record]:
    """Cells whose every text tries to become code: model, label, task, error, warning, notes, device."""
    scores: dict[str, float | None] = dict.fromkeys(HOSTILE, 0.5)
    models = [" ".join(HOSTILE[i::2]) for i in range(2)]
    records = [cell("baseline", 0, scores, model=model, model_id=model) for model in models]
    for index, text in enumerate(HOSTILE):
        model = models[index % 2]
        found = cell(text, 1 + index % 3, scores, model=model, model_id=text)
        assert found.prune
        found.prune.warning = text
        found.prune.notes = {text: text, "list": [text]}
        change_solver(found, name=text, parameters={text: text})
        change_calibration(found, data=text, subset=text, split=text, column=text)
        change_step(found, selector=text, calibration_dtype=text)
        found.environment = {"packages": {text: text}, text: text}
        found.failures = [Failure(stage="serve", error=text, traceback=text)]
        found.serving = serving(1.0 + index, device=HOSTILE[index % 2])
        for task in found.quality.values():
            task.version = task.reason = task.dtype = text
        records.append(found)
    return records
