"""The disk that a run takes, told before it starts from the headers of its models' files."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.run.checkpoints import needs_copy
from bench.run.resume import known, stages_due
from bench.store import Store
from replaceme.architectures import layer_count
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError, OutputError
from replaceme.io import contents, models
from replaceme.io.tensorfile import FLOATS, SHORT_NAMES
from replaceme.solvers import Reconstruct, Uidl
from replaceme.solvers.base import Solver, TransformSolver

if TYPE_CHECKING:
    from bench.suite.matrix import Cell, Plan
    from bench.suite.suite import ModelSpec

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "os error 28")


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
    outputs: int  # what ends the attention and the MLP of a layer
    width: int  # numbers of a hidden state

    def checkpoint(self, removed: int) -> int:
        return self.total - removed * self.layer

    def edit(self, solver: Solver, gaps: int, layers: int) -> int:
        """At most; where layers are fitted is known later."""
        if isinstance(solver, Uidl):
            return 0
        if isinstance(solver, TransformSolver):
            return gaps * self.width**2 * 8
        return self.outputs * (layers if isinstance(solver, Reconstruct) else gaps)


def need(plan: Plan, out: Path, retry_failed: bool = False) -> Need:
    """What the rest of a plan takes.

    Raises:
        InputError: a record that cannot be read, or a damaged model.
    """
    store, most, kept, unknown = Store(out), 0, 0, []
    for model in plan.suite.models:
        cells = [cell for cell in plan.cells if cell.model == model]
        writing = [cell for cell in cells if _writes(cell, plan, store, retry_failed)]
        if not writing:
            continue
        folder = _folder(model)
        if folder is None:
            unknown.append(model.id)
            continue
        checkpoints, edits = _sizes(model, folder, writing)
        most = max(most, kept + sum(checkpoints.values()) + edits)
        kept += edits + sum(_kept(checkpoints, plan.suite.keep_checkpoints))
    return Need(most, free(out), unknown)


def _folder(model: ModelSpec) -> Path | None:
    """The folder of a model, if all of it is on this machine; what is wrong with it is told later."""
    if not models.is_hub_id(model.id):
        return models.known_folder(model.id)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    with suppress(InputError, HFValidationError):
        config = try_to_load_from_cache(model.id, "config.json", revision=model.revision)
        if isinstance(config, str):
            folder = Path(config).parent
            models.check_folder(folder, model.id)
            Checkpoint.read(model.id, folder)
            return folder
    return None


def _writes(cell: Cell, plan: Plan, store: Store, retry_failed: bool) -> bool:
    """Whether a checkpoint of a cell will be written."""
    due = stages_due(known(cell, plan, store, retry_failed), plan)
    there = (store.folder / "checkpoints" / cell.stem).is_dir()
    alone = plan.suite.score is not None and plan.suite.score.method == "per-variant"
    read = "serve" in due or (alone and bool(due))
    return "prune" in due or (read and not there)


def _sizes(model: ModelSpec, folder: Path, cells: Iterable[Cell]) -> tuple[dict[Cell, int], int]:
    """Bytes of the checkpoint of each cell, and of all edits."""
    config = models.read_config(folder)
    layers = layer_count(config)
    shape = _shape(folder, model, layers)
    checkpoints, edits = {}, 0
    for cell in cells:
        if cell.solver is not None:
            checkpoints[cell] = shape.checkpoint(cell.layers)
            gaps = len(cell.prune.given) or cell.prune.num_blocks
            edits += shape.edit(cell.solver.solver, gaps, layers)
        elif needs_copy(folder, model.dtype):
            checkpoints[cell] = shape.total
    return checkpoints, edits


def _shape(folder: Path, model: ModelSpec, layers: int) -> _Shape:
    architecture = Checkpoint.read(model.id, folder).architecture
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
        axis = architecture.merge_axis(place[2])
        if axis is not None or place[2].startswith(architecture.attention_output):
            outputs += size
        if axis is not None:
            width = max(width, entry.shape[-1 if axis == "scale" else axis])
    return _Shape(total, inside // layers, outputs // layers, width)


def _kept(checkpoints: dict[Cell, int], keep: str) -> list[int]:
    """Bytes of the checkpoints that stay when their model is done."""
    if keep == "none":
        return []
    if keep == "all":
        return [*checkpoints.values()]
    return [*{cell.layers: size for cell, size in checkpoints.items()}.values()]


def free(folder: Path) -> int:
    """Bytes free for us where a folder is, or will be."""
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def check(plan: Plan, out: Path, retry_failed: bool = False) -> None:
    """Refuse a run that does not fit on its disk.

    Raises:
        OutputError: saying how much it takes, and how much there is.
    """
    found = need(plan, out, retry_failed)
    if found.bytes > found.free:
        fewer = " 'keep_checkpoints: none' keeps those of one model at a time."
        several = len(plan.suite.models) > 1 and plan.suite.keep_checkpoints != "none"
        raise OutputError(
            f"{out} has too little space: the run writes up to {amount(found.bytes)} of checkpoints, "
            f"and {amount(found.free)} are free; free some, or choose another --out.{fewer * several}"
        )


def amount(size: int) -> str:
    """Bytes for a person to read."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"


def full(error: BaseException) -> str | None:
    """What an error says of a full disk, where that is what caused it, however it was wrapped."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        if isinstance(cause, OSError) and cause.errno in FULL:
            where = f"{cause.filename}: " if cause.filename else ""
            return f"{where}{cause.strerror}"
        if text := next((text for text in FULL_TEXTS if text in str(cause)), None):
            return text
        cause = cause.__cause__ or cause.__context__
    return None
