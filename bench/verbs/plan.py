"""``plan``: the cells of a suite, and what a run would do."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.verbs.output_options import JSON
from bench.verbs.suite_options import LIMIT, MEMORY, ONLY, OUT, SUITE, expand_suite

if TYPE_CHECKING:
    from bench.records import Record
    from bench.run.estimate import Estimate
    from bench.run.own_text import OwnText
    from bench.run.space import Need
    from bench.suite.matrix import Plan
    from bench.tasks.planned import PlannedGroup, PlannedTask


@click.command()
@SUITE
@OUT
@ONLY
@LIMIT
@MEMORY
@JSON
@click.option("--estimate", is_flag=True, help="Tokenise the tasks; say tokens and seconds of scoring.")
def plan(
    suite: Path,
    out: Path | None,
    only: tuple[str, ...],
    limit: float | None,
    memory: str | None,
    as_json: bool,
    estimate: bool,
) -> None:
    """Show the cells of a suite, what is done, and what would run; loads no model."""
    from bench.render.escape import visible
    from bench.run.memory import compute_healing_needs, describe_memory, measure_models
    from bench.run.own_text import list_unwritten
    from bench.run.resume import list_stages_due, list_stages_left, recall_record
    from bench.run.space import compute_need
    from bench.run.spread import describe_spread, size_workers
    from bench.store import Store
    from bench.suite.by_name import list_known_by_name
    from replaceme.amounts import format_bytes

    found, folder = expand_suite(suite, only, out, limit, memory)
    store = Store(folder)
    records = {cell: recall_record(cell, found, store) for cell in found.cells}
    due = {cell: list_stages_due(record, found) for cell, record in records.items()}
    space, healing = compute_need(found, folder), compute_healing_needs(found, folder)
    models, room = measure_models(found), found.suite.memory_bytes
    own = [*list_unwritten(found, due.__getitem__, folder)]
    if as_json:
        cells = [
            {
                "cell": cell.name,
                "record": str(store.path(cell.stem)),
                "identity": cell.identity.canonical(),
                "left": due[cell],
                "failed": {failure.stage: failure.error for failure in record.failures},
            }
            for cell, record in records.items()
        ]
        content: dict[str, Any] = {
            "suite": found.suite.name,
            "out": str(folder),
            "cells": cells,
            "disk": asdict(space),
            "healing_memory": healing,
            "memory": {
                "limit": room,
                "models": {
                    name: {"whole": each.whole, "layer_by_layer": each.least}
                    for name, each in models.items()
                },
            },
            "generated": [
                {"model": text.model.name, "file": str(text.file), **text.data.writing()} for text in own
            ],
        }
        content["executor"] = size_workers(found).model_dump()
        content["known_by_name"] = list_known_by_name(found)
        content["groups"] = {group.name: [task.name for task in group.tasks] for group in found.groups}
        if estimate:
            content["estimate"] = [asdict(line) for line in _estimated(found, folder)]
        click.echo(json.dumps(content, indent=1))
        return
    names = {cell: visible(cell.name) for cell in records}
    width = max(map(len, names.values()))
    for cell, record in records.items():
        click.echo(f"{names[cell]:{width}}  {visible(_state(due[cell], record, found))}")
    done = sum(not list_stages_left(record, found) for record in records.values())
    failed = sum(bool(record.failures) for record in records.values())
    counts = [f"{len(records)} cell{'s' * (len(records) != 1)}", f"{done} done"]
    counts += [f"{failed} failed"] * bool(failed)
    click.echo(f"{', '.join(counts)}. ", nl=False)
    click.echo(f"Records go to {folder / 'records'}.")
    for note in found.notes:
        click.echo(visible(note))
    if named := list_known_by_name(found):
        click.echo(visible(f"Known by name, not by content: {'; '.join(named)}."))
    if failed:
        click.echo("`run` leaves what failed alone until something changes; --retry-failed redoes it.")
    _print_own(own)
    _print_space(space, folder)
    for name, each in models.items():
        click.echo(visible(describe_memory(name, each, room)))
    for line in describe_spread(found, due.__getitem__):
        click.echo(line)
    for name, size in healing.items():
        click.echo(visible(f"Healing {name} takes up to {format_bytes(size)} of its device's memory."))
    if estimate:
        _print_estimate(_estimated(found, folder))


def _state(due: list[str], record: Record, plan: Plan) -> str:
    """What a run would do for a cell, a group standing for its tasks, and what it would leave."""
    due = _with_groups(due, plan)
    failed = [f"failed: {f.stage} ({f.error.splitlines()[0]})" for f in record.failures]
    return "; ".join([*([", ".join(due)] if due else []), *failed]) or "done"


def _with_groups(due: list[str], plan: Plan) -> list[str]:
    """Stages with those of a group's tasks counted in its own."""
    from bench.tasks.planned import stage_of

    shown = {stage: stage for stage in due}
    for group in plan.groups:
        parts = [stage_of(task) for task in group.tasks if stage_of(task) in due]
        count = f"{len(parts)} of " if len(parts) < len(group.tasks) else ""
        for task in group.tasks:
            if not task.column:
                shown.pop(stage_of(task), None)
        if group.column and (stage_of(group) in shown or parts):
            shown[stage_of(group)] = f"{stage_of(group)} ({count}{len(group.tasks)} tasks)"
        elif not group.column:
            shown.pop(stage_of(group), None)
    every: list[PlannedTask | PlannedGroup] = [*plan.tasks, *plan.groups]
    order = ["prune", "heal", *map(stage_of, every), "serve"]
    return [shown[stage] for stage in order if stage in shown]


def _print_own(texts: list[OwnText]) -> None:
    """What models will write themselves, and about how long that takes."""
    from bench.console import duration
    from bench.render.escape import visible
    from bench.run.costs import cost_of
    from bench.run.sizes import ModelSize
    from bench.serving import EngineMissingError, engine_version
    from replaceme.checkpoint import Checkpoint

    for text in texts:
        model, time = text.model, ""
        if found := Checkpoint.find(model.id, model.revision, model.trust_remote_code):
            job = cost_of(text, ModelSize.of(found))
            time = f", about {duration(job.fixed + job.work)} on two cores without a GPU"
        click.echo(visible(f"{text.describe()} into {text.file}{time}."))
    if texts and engine_version() is None:
        click.echo(visible(EngineMissingError().reason))


def _print_space(space: Need, folder: Path) -> None:
    from bench.render.escape import visible
    from replaceme.amounts import format_bytes

    if space.bytes:
        size, free = format_bytes(space.bytes), format_bytes(space.free)
        click.echo(f"Checkpoints take up to {size} in {folder}, where {free} are free.")
    if space.unknown:
        unknown = visible(", ".join(space.unknown))
        click.echo(f"Not on this machine, so of unknown size: {unknown}.")


def _estimated(found: Plan, folder: Path) -> list[Estimate]:
    from bench.console import chatter_to
    from bench.run.estimate import estimate as estimated

    with chatter_to(Path(os.devnull)) as stderr:
        return estimated(found, folder, lambda text: click.echo(text, file=stderr))


def _print_estimate(estimates: list[Estimate]) -> None:
    from bench.console import duration
    from bench.render.escape import visible

    for line in estimates:
        name = visible(f"{line.model}, {line.task}")
        texts = f", {line.texts:,} texts of {line.written:,} tokens at most" if line.texts else ""
        how = "in one pass" if line.requests else "in an engine for each shape"
        click.echo(
            f"{name}: {line.requests:,} requests, {line.tokens:,} tokens{texts}; "
            f"{line.variants} variants {how}: about {duration(line.seconds)} on this machine"
        )
    click.echo(f"Scoring takes about {duration(sum(line.seconds for line in estimates))} in all.")
