"""How the work of a suite is spread over workers of Ray, told before there is a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.run.memory import measure_models
from bench.suite.executor import ExecutorSpec
from bench.tasks.planned import stage_of
from replaceme.amounts import format_bytes

if TYPE_CHECKING:
    from bench.suite.matrix import Cell, Plan


def size_workers(plan: Plan) -> ExecutorSpec:
    """The executor of a plan, which asks for the memory that its largest model takes in a worker.

    Raises:
        InputError: a damaged model.
    """
    spec = plan.suite.executor
    known = spec.name == "local" or spec.memory is not None or _on_gpu(plan)
    if known or not (need := _measure_largest(plan)):
        return spec
    return spec.model_copy(update={"memory": f"{need / 1e6:.0f}MB"})


def describe_spread(plan: Plan, list_due: Callable[[Cell], list[str]]) -> list[str]:
    """Which workers are wanted, and which jobs there are for them; nothing where this process works.

    Raises:
        InputError: a damaged model.
    """
    spec = size_workers(plan)
    if spec.name == "local":
        return []
    device = _measure_largest(plan) if _on_gpu(plan) else 0
    return [_describe_workers(spec, device), _describe_jobs(plan, list_due)]


def _measure_largest(plan: Plan) -> int:
    """Bytes of the model that takes most, within the limit of the suite; 0: none is on this machine."""
    models = measure_models(plan).values()
    largest = max((each.whole + each.beside for each in models), default=0)
    return min(largest, plan.suite.memory_bytes or largest)


def _on_gpu(plan: Plan) -> bool:
    """Whether workers may compute on GPUs."""
    return plan.suite.device != "cpu" and plan.suite.executor.gpus != 0


def _describe_workers(spec: ExecutorSpec, device: int) -> str:
    count = f"{spec.workers}" if spec.workers else "one for each GPU of the cluster, or each machine"
    gpus = "a GPU where there are any" if spec.gpus is None else f"{spec.gpus:g} GPUs"
    cpus = f"{spec.cpus}" if spec.cpus else "its share of the"
    memory = f", {format_bytes(spec.memory_bytes)} of memory" if spec.memory_bytes else ""
    need = f" Models take up to {format_bytes(device)} of its device." if device else ""
    return f"Workers of Ray: {count}; each has {gpus}, {cpus} CPUs{memory}.{need}"


def _describe_jobs(plan: Plan, list_due: Callable[[Cell], list[str]]) -> str:
    due = {cell: list_due(cell) for cell in plan.cells}
    fits = {cell.pruned.stem for cell, stages in due.items() if cell.solver and "prune" in stages}
    trainings = [cell for cell, stages in due.items() if "heal" in stages]
    stages = [(cell, stage) for cell, found in due.items() for stage in found]
    named = {stage_of(task) for task in plan.tasks}
    sweeps = {(cell.model, stage) for cell, stage in stages if stage in named}
    served = [cell for cell, stages in due.items() if "serve" in stages]
    jobs = [
        f"{len(found)} {name}"
        for found, name in (
            (fits, "fits"),
            (trainings, "trainings"),
            (sweeps, "tasks of a model, in parts"),
            (served, "cells to serve, each alone on a machine"),
        )
        if found
    ]
    return f"Jobs for them: {', '.join(jobs) or 'none'}."
