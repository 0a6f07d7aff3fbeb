"""The prune stage of a run: the variants of one model, calibrated together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import records
from bench.run.checkpoints import Checkpoints, flush_to_disk
from bench.run.costs import fit_of
from bench.run.executors import Held, Job
from bench.run.host import environment
from bench.run.ledger import Ledger
from bench.run.stages.calibrate import Loaded, calibrate, load
from bench.run.stages.confirm import confirm
from bench.run.stages.generate import provide
from bench.suite.layer_counts import check_declared
from bench.suite.matrix import Cell
from bench.suite.suite import ModelSpec
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError
from replaceme.io import contents, loading, matching
from replaceme.io.auto import auto_class
from replaceme.io.editfile import save_edit
from replaceme.io.saved import SavedLayers
from replaceme.provenance import choice_line, list_blocks

if TYPE_CHECKING:
    from replaceme.calibrating import Calibrated
    from replaceme.calibration import CalibrationData, CalibrationText
    from replaceme.reload import Expected
    from replaceme.report import Report
    from replaceme.selection import Block


class PruneStage:
    """Makes what the cells of one model lack: what their solvers find, and checkpoints of it."""

    def __init__(
        self,
        ledger: Ledger,
        checkpoints: Checkpoints,
        model: ModelSpec,
        checkpoint: Checkpoint,
        cells: list[Cell],
    ) -> None:
        self.ledger, self.checkpoints = ledger, checkpoints
        self.model, self.checkpoint, self.source = model, checkpoint, checkpoint.folder
        self.pruned = [cell for cell in cells if cell.solver]
        self.cells = [cell for cell in cells if self._lacks(cell)]

    def _lacks(self, cell: Cell) -> bool:
        """Whether a cell is not pruned, or what its solver found is gone and is asked for again."""
        due = self.ledger.list_due(cell)
        if "prune" in due or cell.solver is None:
            return "prune" in due
        lost = self.checkpoints.is_lost(cell, self.source, due)
        if cell.heal:
            return (lost or "heal" in due) and not self.checkpoints.edit_file(cell.pruned).is_file()
        return lost

    def execute(self) -> None:
        if leaders := [cell for cell in self.cells if cell.solver and self._leader_of(cell) == cell]:
            self._prune(leaders)
        for cell in self.cells:
            if not cell.solver:
                with self.ledger.stage(cell, "prune") as record:
                    record.prune = self._measure_baseline(cell)
            elif (leader := self._leader_of(cell)) != cell:
                with self.ledger.stage(cell, "prune") as record:
                    record.prune = self._share(leader)

    def _leader_of(self, cell: Cell) -> Cell:
        """The cell that is pruned for all that begin alike: the one that is done, or the first."""
        alike = [other for other in self.pruned if other.pruned.stem == cell.pruned.stem]
        done = [other for other in alike if other not in self.cells and self._is_pruned(other)]
        return next(iter([*done, *(other for other in alike if other in self.cells)]))

    def _is_pruned(self, cell: Cell) -> bool:
        start = self.checkpoints.edit_file(cell.pruned)
        return self.ledger.records[cell].prune is not None and start.is_file()

    def _share(self, leader: Cell) -> records.Prune:
        """What another cell was pruned to.

        Raises:
            InputError: it could not be pruned.
        """
        record = self.ledger.records[leader]
        if record.prune is None:
            failure = record.failed("prune")
            raise InputError(failure.error if failure else f"{leader.name} is not pruned.")
        return record.prune.model_copy()

    def _prune(self, cells: list[Cell]) -> None:
        fitting = [cell for cell in cells if self._fits(cell)]
        if not fitting:
            return
        calibrated = None
        with self.ledger.guard((cell, "prune") for cell in fitting):
            data = provide(self.ledger, self.checkpoint, fitting[0], self.ledger.plan.suite.calibration)
            self.ledger.progress.step(f"{self.model.name}: reading the calibration text")
            text = self._text(fitting[0], data)
            fitting += self._stale(text, fitting)
            self.ledger.progress.learn_text(self.model, sum(map(len, text.sequences)))
            held = Held(load, (self.checkpoint, text, self._settings(fitting)))
            calibrated = calibrate(self.ledger, self.model, self.checkpoint, held)
        if calibrated is None:
            return
        for line in contents.left_line(self.source):
            self.ledger.progress.say(f"{self.model.name}: {line}")
        for choice in calibrated.choices.values():
            chosen = choice_line(self.ledger.plan.suite.prune.selector, choice)
            self.ledger.progress.say(
                f"{self.model.name}: removing {list_blocks(choice.blocks)}. {chosen}"
            )
        written = self._write(fitting, held, calibrated)
        del calibrated
        self.ledger.executor.let_go()  # one model at a time in memory
        confirm(self.ledger, self.checkpoints, self.checkpoint, "prune", written)

    def _text(self, cell: Cell, data: CalibrationData) -> CalibrationText:
        compat = cell.prune.compat == "reference"
        text = self.checkpoint.read_text(data, self.ledger.plan.suite.date, compat)
        if text.rows and (notice := text.rows.notice()):
            self.ledger.progress.say(f"{self.model.name}: {notice}")
        return text

    def _stale(self, text: CalibrationText, fitting: list[Cell]) -> list[Cell]:
        """Cells that are due as well because their calibration tokens were others, under the same
        identity: another version of a hub data set, or of a library. What they have is forgotten."""
        stale = []
        for cell in self.pruned:
            known = self.ledger.records[cell].prune
            if known and known.calibration_hash not in (None, text.hash):
                self.ledger.forget(cell)
                stale += [cell] if cell not in fitting else []
        if stale:
            names = ", ".join(cell.name for cell in stale)
            self.ledger.progress.say(f"{names}: made again, since the calibration text has changed.")
        return stale

    def _fits(self, cell: Cell) -> bool:
        """Whether a variant can be made; refuses what became known only now that the model is here."""
        assert cell.solver is not None
        prune, solver = cell.prune, cell.solver.solver
        try:
            check_declared(cell.model, self.checkpoint)
            self.checkpoint.check(solver, cell.layers, prune.given, prune.num_blocks, "prune.layers")
        except InputError as error:
            self.ledger.fail(cell, "prune", error)
            return False
        return True

    def _settings(self, cells: list[Cell]) -> dict[str, Any]:
        """Of :meth:`replaceme.checkpoint.Checkpoint.calibrate`."""
        prune = cells[0].prune
        return {
            "solvers": [cell.solver.solver for cell in cells if cell.solver],
            "counts": [] if prune.blocks else [cell.layers for cell in cells],
            "blocks": [prune.given] if prune.blocks else [],
            "selection": prune.selection,
            "batch_size": prune.batch_size,
            "dtype": prune.calibration_dtype or self.model.dtype,
            "device": self.ledger.device,
            "memory": self.ledger.memory,
            "compat_reference": prune.compat == "reference",
        }

    def _write(
        self, cells: list[Cell], held: Held, calibrated: Calibrated
    ) -> dict[Cell, tuple[records.Prune, Expected]]:
        """Fit and save cells; cell → what to record of it, and what its checkpoint is to do."""
        jobs = [
            Job(
                fit_and_save,
                (
                    calibrated.of(_blocks(cell, calibrated)),
                    self.checkpoint,
                    cell,
                    self.checkpoints.edit_file(cell.pruned),
                    self.checkpoints.folder(cell, self.source),
                ),
                held,
                f"{cell.name}: fitting and saving",
                fit_of(cell),
            )
            for cell in cells
        ]
        written = {}
        for number, outcome in self.ledger.run(jobs):
            cell = cells[number]
            with self.ledger.guard([(cell, "prune")]):
                made, expected, warning = outcome.get()
                if warning:
                    self.ledger.progress.say(f"warning: {cell.name}: {warning}")
                written[cell] = made, expected
                self.ledger.progress.learn_block(cell.pruned, made.blocks[0][0])
        return written

    def _measure_baseline(self, cell: Cell) -> records.Prune:
        folder = self.checkpoints.provide(cell, self.source)
        if folder != self.source:
            flush_to_disk(folder)
        return records.Prune(blocks=[], **_describe_files(folder, cell.model.trust_remote_code))


def _describe_files(folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    from transformers import AutoConfig

    found = matching.match(folder, trust_remote_code)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return {
        "dtype": loading.checkpoint_dtype(folder),
        "parameters": found.parameters,
        "checkpoint_bytes": matching.file_bytes(folder, found),
        "loaded_with": auto_class(config).__name__,
    }


def _blocks(cell: Cell, calibrated: Calibrated) -> tuple[Block, ...]:
    choice = calibrated.choices.get(cell.layers)
    return cell.prune.given or (choice.blocks if choice else ())


# ---- what is done by whoever holds the model


def fit_and_save(
    loaded: Loaded,
    calibrated: Calibrated,
    source: Checkpoint,
    cell: Cell,
    edit_file: Path,
    out: Path,
    report: Report,
) -> tuple[records.Prune, Expected, str | None]:
    """Fit a cell, and save what was found and the checkpoint with it.

    Returns:
        What to record of it, what its checkpoint is to do, and a warning.
    """
    from replaceme.session import Session

    calibrator, text = loaded
    session = Session(calibrator.calibration(calibrated), text, calibrator.selection)
    assert cell.solver is not None
    variant = session.fit(cell.solver.solver, cell.layers, cell.prune.given, report=report)
    dtype, edit = cell.model.dtype, variant.fit.edit
    provenance = source.trace(variant, dtype)
    saved = SavedLayers.of(source.folder, source.architecture, dtype)
    save_edit(edit_file, saved.rounded(edit), provenance)
    source.write(edit, out, provenance, dtype=dtype, overwrite=True)
    flush_to_disk(edit_file, out)
    made = records.Prune(
        **variant.facts.model_dump(),
        **environment.peak_memory(),
        **_describe_files(out, cell.model.trust_remote_code),
    )
    return made, source.expect(session, variant, dtype), variant.fit.warning
