"""The disk that a run takes, told before it starts from the headers of its models' files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.run.checkpoints import needs_copy
from bench.run.host import disk
from bench.run.resume import NOTHING, Retry, list_stages_due, recall_record
from bench.store import Store
from replaceme.amounts import format_bytes
from replaceme.architectures import layer_count
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError, OutputError
from replaceme.io import contents, models
from replaceme.io.tensorfile import FLOATS, SHORT_NAMES
from replaceme.solvers import LayerSize

if TYPE_CHECKING:
    from bench.suite.matrix import Cell, Plan
    from bench.suite.suite import ModelSpec


@dataclass(frozen=True)
class Need:
    """What a run writes.

    Attributes:
        bytes: of checkpoints and of what solvers find, the most that lie there at once.
        free: bytes on the disk of the result folder.
        unknown: models that are not on this machine yet, which come on top.
    """

    bytes: int
    free: int
    unknown: list[str]


@dataclass(frozen=True)
class _Shape:
    """Bytes of one model as it is saved."""

    total: int
    layer: int  # the mean of its decoder layers
    size: LayerSize

    def checkpoint(self, removed: int) -> int:
        return self.total - removed * self.layer


def compute_need(plan: Plan, out: Path, retry: Retry = NOTHING) -> Need:
    """What the rest of a plan takes.

    Raises:
        InputError: a record that cannot be read, or a damaged model.
    """
    store, most, kept, unknown = Store(out), 0, 0, []
    for model in plan.suite.models:
        cells = [cell for cell in plan.cells if cell.model == model]
        writing = [cell for cell in cells if _writes_checkpoint(cell, plan, store, retry)]
        if not writing:
            continue
        folder = find_folder(model)
        if folder is None:
            unknown.append(model.id)
            continue
        checkpoints, edits = _size_files(model, folder, writing)
        most = max(most, kept + sum(checkpoints.values()) + edits)
        kept += edits + sum(_list_kept(checkpoints, plan.suite.keep_checkpoints))
    return Need(most, disk.free(out), unknown)


def find_folder(model: ModelSpec) -> Path | None:
    """The folder of a model, if all of it is on this machine; what is wrong with it is told later."""
    if not models.is_hub_id(model.id):
        return models.known_folder(model.id)
    with suppress(InputError):
        if folder := models.cached_folder(model.id, model.revision):
            models.check_folder(folder, model.id)
            Checkpoint.read(model.id, folder)
            return folder
    return None


def _writes_checkpoint(cell: Cell, plan: Plan, store: Store, retry: Retry) -> bool:
    """Whether a checkpoint of a cell will be written."""
    due = list_stages_due(recall_record(cell, plan, store, retry), plan)
    there = (store.folder / "checkpoints" / cell.stem).is_dir()
    alone = plan.suite.score is not None and plan.suite.score.method == "per-variant"
    read = "serve" in due or (alone and bool(due))
    return "prune" in due or (read and not there)


def _size_files(model: ModelSpec, folder: Path, cells: Iterable[Cell]) -> tuple[dict[Cell, int], int]:
    """Bytes of the checkpoint of each cell, and of all edits."""
    config = models.read_config(folder)
    layers = layer_count(config)
    shape = _measure_shape(folder, model, layers)
    checkpoints, edits = {}, 0
    for cell in cells:
        if cell.solver is not None:
            checkpoints[cell] = shape.checkpoint(cell.layers)
            gaps = len(cell.prune.given) or cell.prune.num_blocks
            edits += cell.solver.solver.edit_bytes(shape.size, gaps, layers)
            if cell.heal:
                edits += cell.heal.edit_bytes(shape.size.outputs, shape.total, gaps, layers)
        elif needs_copy(folder, model.dtype):
            checkpoints[cell] = shape.total
    return checkpoints, edits


def _measure_shape(folder: Path, model: ModelSpec, layers: int) -> _Shape:
    architecture = Checkpoint.read(
        model.id, folder, model.revision, model.trust_remote_code
    ).architecture
    total = inside = outputs = width = 0
    for tensor in contents.stored_tensors(folder).values():
        entry, size = tensor.entry, tensor.bytes
        place = architecture.split(entry.name)
        if place and place[1] >= layers:
            continue
        if model.dtype and entry.dtype in FLOATS:
            size = math.prod(entry.shape) * FLOATS[SHORT_NAMES[model.dtype]][1]
        total += size
        if place is None:
            continue
        inside += size
        kind = architecture.kind(place[1])
        if kind.merges(place[2]) or kind.ends(place[2]):
            outputs += size
        if kind.merges(place[2]):
            width = max(width, entry.shape[kind.merge_axis(place[2]) or -1])
    return _Shape(total, inside // layers, LayerSize(outputs // layers, width))


def _list_kept(checkpoints: dict[Cell, int], keep: str) -> list[int]:
    """Bytes of the checkpoints that stay when their model is done."""
    if keep == "none":
        return []
    if keep == "all":
        return [*checkpoints.values()]
    return [*{cell.layers: size for cell, size in checkpoints.items()}.values()]


def check_space(plan: Plan, out: Path, retry: Retry = NOTHING) -> None:
    """Refuse a run that does not fit on its disk.

    Raises:
        OutputError: saying how much it takes, and how much there is.
    """
    need = compute_need(plan, out, retry)
    if need.bytes > need.free:
        size, free = format_bytes(need.bytes), format_bytes(need.free)
        fewer = " 'keep_checkpoints: none' keeps those of one model at a time."
        several = len(plan.suite.models) > 1 and plan.suite.keep_checkpoints != "none"
        raise OutputError(
            f"{out} has too little space: the run writes up to {size} of checkpoints, and {free} are "
            f"free; free some, or choose another --out.{fewer * several}"
        )
