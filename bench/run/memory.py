"""The memory that a run takes, told before it starts from the headers of its models' files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from bench.run.resume import list_stages_due, recall_record
from bench.run.space import find_folder
from bench.store import Store
from replaceme.amounts import format_bytes
from replaceme.calibration import CalibrationData
from replaceme.checkpoint import Checkpoint
from replaceme.healing.need import Need, Sizes
from replaceme.io import models
from replaceme.io.loading import declared_dtype
from replaceme.memory import Footprint, check_limit
from replaceme.selection import Block

if TYPE_CHECKING:
    from bench.suite.matrix import Cell, Plan
    from bench.suite.suite import ModelSpec

HALVES = ("bfloat16", "float16")


def compute_healing_needs(plan: Plan, out: Path) -> dict[str, int]:
    """Name of a model → bytes that healing takes on its device, at most, for the cells that lack it.

    A cut is taken to lie behind the first layer, where most is trained. Models that are not on this
    machine yet are left out.

    Raises:
        InputError: a record that cannot be read, or a damaged model.
    """
    store, needs = Store(out), {}
    device = _device(plan)
    for model in plan.suite.models:
        cells = [
            cell
            for cell in plan.cells
            if cell.model == model and "heal" in list_stages_due(recall_record(cell, plan, store), plan)
        ]
        if cells and (folder := find_folder(model)):
            sizes = Sizes.of(Checkpoint.read(model.id, folder, model.revision, model.trust_remote_code))
            half = _is_half(model, folder, device)
            found = (_compute_need(cell, plan, sizes, half, device) for cell in cells)
            needs[model.name] = max(need.within(plan.suite.memory_bytes) for need in found)
    return needs


def measure_models(plan: Plan) -> dict[str, Footprint]:
    """Name of a model → what it takes in memory as it is calibrated, of those on this machine.

    Raises:
        InputError: a damaged model, or one of which not even two layers fit into the plan's memory.
    """
    found = {}
    for model in plan.suite.models:
        if folder := find_folder(model):
            source = Checkpoint.read(model.id, folder, model.revision, model.trust_remote_code)
            dtype = plan.suite.prune.calibration_dtype or model.dtype
            found[model.name] = Footprint.of(folder, source.architecture, dtype, _device(plan))
            if plan.suite.memory_bytes is not None:
                check_limit(found[model.name], plan.suite.memory_bytes, 0, model.name)
    return found


def describe_memory(name: str, found: Footprint, limit: int | None) -> str:
    """How a model is held, within a limit where there is one, in a sentence."""
    whole, least, beside = (format_bytes(size) for size in (found.whole, found.least, found.beside))
    if limit is None:
        return (
            f"{name} takes {whole} in memory, or layer by layer ('memory: …') {least} at the least; "
            f"what is fitted and predicted takes up to {beside} beside it."
        )
    if found.fits(limit):
        return f"{name} takes {whole} of {format_bytes(limit)}, as a whole."
    return (
        f"{name} takes {whole}, and is read layer by layer: two layers, embeddings and head are {least} "
        f"of {format_bytes(limit)}; states wait in the rest, or in files."
    )


def _compute_need(cell: Cell, plan: Plan, sizes: Sizes, half: bool, device: str) -> Need:
    assert cell.heal is not None
    calibration: CalibrationData = plan.suite.calibration
    tokens = cell.heal.text(calibration).max_length
    blocks = cell.prune.given or (Block(1, 1 + cell.layers),)
    return sizes.compute_need(cell.heal, tokens, blocks, half, device)


def _device(plan: Plan) -> str:
    """Where a plan computes, as far as that is known without torch."""
    return plan.suite.device or ("cuda" if shutil.which("nvidia-smi") else "cpu")


def _is_half(model: ModelSpec, folder: Path, device: str) -> bool:
    """Whether a model is computed in half precision for certain, as it is on a GPU."""
    dtype = model.dtype or declared_dtype(models.read_config(folder))
    return device != "cpu" and dtype in HALVES
