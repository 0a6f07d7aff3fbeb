"""The checkpoints of a run: where they lie, which are kept, and how a removed one is made again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bench.leaderboard.averages import average
from bench.records import Record
from bench.run.host.leftovers import discard
from bench.suite.matrix import Cell
from replaceme.errors import OutputError
from replaceme.io import contents, loading, models
from replaceme.recipe import digest


class Checkpoints:
    """Those below one result folder."""

    def __init__(self, out: Path, keep: str) -> None:
        self.out, self.keep = out, keep

    def folder(self, cell: Cell, source: Path) -> Path:
        """Folder of a cell's checkpoint; the baseline's is the source itself if that will do."""
        own = cell.solver is not None or needs_copy(source, cell.model.dtype)
        return self._own(cell) if own else source

    def edit_file(self, cell: Cell) -> Path:
        """What the cell's solver found and what was trained since, weights rounded to the dtype of the
        checkpoint."""
        return self.out / "edits" / f"{cell.stem}.safetensors"

    def is_lost(self, cell: Cell, source: Path, due: list[str]) -> bool:
        """Whether that is gone, and one of the stages that are due needs it."""
        scored = any(stage.startswith("score") for stage in due)
        wanted = scored or (bool(due) and not self.folder(cell, source).is_dir())
        return wanted and not self.edit_file(cell).is_file()

    def provide(self, cell: Cell, source: Path) -> Path:
        """Folder of a cell's checkpoint, made from what its solver found where it is missing.

        Raises:
            InputError: that is missing too.
            OutputError: it cannot be written.
        """
        from replaceme import Edit, write_checkpoint
        from replaceme.io.editfile import load_edit

        folder = self.folder(cell, source)
        if not folder.is_dir():
            edit, provenance = load_edit(self.edit_file(cell)) if cell.solver else (Edit(), None)
            write_checkpoint(
                source,
                folder,
                edit,
                provenance,
                dtype=cell.model.dtype,
                trust_remote_code=cell.model.trust_remote_code,
            )
        return folder

    def hash_shape(self, cell: Cell, source: Path) -> str:
        """Hash of the configuration of a cell's checkpoint: those that share it differ in values alone.

        Raises:
            InputError, OutputError: as :meth:`provide`.
        """
        return digest(models.read_config(self.provide(cell, source)))

    def tidy(self, records: Mapping[Cell, Record]) -> None:
        """Remove the checkpoints of finished cells that are not to be kept.

        One that could not be made again stays, and so do all of a layer count without an average.

        Raises:
            OutputError: one cannot be removed.
        """
        if self.keep == "all":
            return
        kept = find_best(records) if self.keep == "best" else set()
        for cell in records.keys() - kept:
            folder = self._own(cell)
            if folder.is_dir() and (cell.solver is None or self.edit_file(cell).is_file()):
                gone = folder.with_name(f".{cell.stem}-gone")  # never half a checkpoint under its name
                folder.rename(gone)
                discard(gone)

    def _own(self, cell: Cell) -> Path:
        return self.out / "checkpoints" / cell.stem


def needs_copy(source: Path, dtype: str | None) -> bool:
    """Whether the intact model is written as well: it is cast, or its folder holds other weights too,
    which vLLM might serve in its place."""
    return loading.is_cast(source, dtype) or contents.has_other_weights(source)


def find_best(records: Mapping[Cell, Record]) -> set[Cell]:
    """The cells of the best average at each layer count of each model; all where none is known."""
    kept: set[Cell] = set()
    for group in {(cell.model.name, cell.layers) for cell in records}:
        cells = [cell for cell in records if (cell.model.name, cell.layers) == group]
        known = {cell: found for cell in cells if (found := average(records[cell]).number) is not None}
        kept.update([max(known, key=lambda cell: known[cell])] if known else cells)
    return kept


def flush_to_disk(*paths: Path) -> None:
    """Have files, and those in folders, on the disk before a record says that they are there.

    Raises:
        OutputError: the disk does not take them.
    """
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            try:
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise OutputError(f"{file} cannot be written: {error.strerror or error}.") from error
