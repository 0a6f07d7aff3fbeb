"""The memory that healing takes, told before a run starts from the headers of its models' files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from bench.run.resume import list_stages_due, recall_record
from bench.run.space import find_folder
from bench.store import Store
from replaceme.calibration import CalibrationData
from replaceme.checkpoint import Checkpoint
from replaceme.healing.need import Sizes
from replaceme.io import models
from replaceme.io.loading import declared_dtype
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
    device = plan.suite.device or ("cuda" if shutil.which("nvidia-smi") else "cpu")
    for model in plan.suite.models:
        cells = [
            cell
            for cell in plan.cells
            if cell.model == model and "heal" in list_stages_due(recall_record(cell, plan, store), plan)
        ]
        if cells and (folder := find_folder(model)):
            sizes = Sizes.of(Checkpoint.read(model.id, folder, model.revision, model.trust_remote_code))
            half = _is_half(model, folder, device)
            needs[model.name] = max(_compute_need(cell, plan, sizes, half, device) for cell in cells)
    return needs


def _compute_need(cell: Cell, plan: Plan, sizes: Sizes, half: bool, device: str) -> int:
    assert cell.heal is not None
    calibration: CalibrationData = plan.suite.calibration
    tokens = cell.heal.text(calibration).max_length
    blocks = cell.prune.given or (Block(1, 1 + cell.layers),)
    return sizes.compute_need(cell.heal, tokens, blocks, half, device)


def _is_half(model: ModelSpec, folder: Path, device: str) -> bool:
    """Whether a model is computed in half precision for certain, as it is on a GPU."""
    dtype = model.dtype or declared_dtype(models.read_config(folder))
    return device != "cpu" and dtype in HALVES
