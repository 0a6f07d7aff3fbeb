"""The prune stage of a run: the variants of one model, calibrated together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import records
from bench.run.checkpoints import Checkpoints, flush_to_disk
from bench.run.costs import calibration_of, fit_of, reload_of
from bench.run.host import environment
from bench.run.host.leftovers import discard
from bench.run.ledger import Ledger
from bench.run.variants import calibrated, fitted, text_for
from bench.suite.layer_counts import check_declared
from bench.suite.matrix import Cell
from bench.suite.suite import ModelSpec
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError
from replaceme.io import loading, matching
from replaceme.io.editfile import save_edit
from replaceme.io.saved import SavedLayers
from replaceme.provenance import choice_line, listed
from replaceme.selectors import SELECTORS

if TYPE_CHECKING:
    from replaceme.calibration import CalibrationText
    from replaceme.pruning import Calibration
    from replaceme.reload import Expected


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
        if "prune" in due or not due or cell.solver is None:
            return "prune" in due
        scored = any(stage.startswith("score") for stage in due)
        lost = scored or not self.checkpoints.folder(cell, self.source).is_dir()
        return lost and not self.checkpoints.edit_file(cell).is_file()

    def execute(self) -> None:
        if pruned := [cell for cell in self.cells if cell.solver]:
            self._prune(pruned)
        for cell in self.cells:
            if not cell.solver:
                with self.ledger.stage(cell, "prune") as record:
                    record.prune = self._measure_baseline(cell)

    def _prune(self, cells: list[Cell]) -> None:
        fitting = [cell for cell in cells if self._fits(cell)]
        if not fitting:
            return
        calibrated = None
        with self.ledger.guard((cell, "prune") for cell in fitting):
            job = calibration_of(self.model)
            self.ledger.progress.step(f"{self.model.name}: calibrating", job)
            text = self._text(fitting[0])
            fitting += self._stale(text, fitting)
            self.ledger.progress.learn_text(self.model, sum(map(len, text.sequences)))
            calibrated = self._calibrate(fitting, text)
        if calibrated is None:
            return
        for choice in calibrated.choices.values():
            chosen = choice_line(self.ledger.plan.suite.prune.selector, choice)
            self.ledger.progress.say(f"{self.model.name}: removing {listed(choice.blocks)}. {chosen}")
        written = {}
        for cell in fitting:
            self.ledger.progress.step(f"{cell.name}: fitting and saving", fit_of(cell))
            with self.ledger.guard([(cell, "prune")]):
                written[cell] = self._write(cell, calibrated, text)
                self.ledger.progress.learn_block(cell, written[cell][0].blocks[0][0])
        del calibrated  # one model at a time in memory
        for cell, (prune, expected) in written.items():
            self.ledger.progress.step(f"{cell.name}: loading what was saved", reload_of(cell))
            with self.ledger.stage(cell, "prune") as record:
                record.prune = self._confirm(cell, prune, expected)

    def _text(self, cell: Cell) -> CalibrationText:
        suite = self.ledger.plan.suite
        text = text_for(self.source, self.model, cell.prune, suite.calibration, suite.date)
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

    def _calibrate(self, cells: list[Cell], text: CalibrationText) -> Calibration:
        prune, seed = cells[0].prune, self.ledger.plan.suite.calibration.seed
        counts = [cell.layers for cell in cells]
        solvers = [cell.solver.solver for cell in cells if cell.solver]
        calibration = calibrated(
            self.source,
            self.model,
            prune,
            text,
            seed,
            counts,
            solvers,
            self.ledger.device,
            self.ledger.progress.share,
        )
        for statistics in calibration.statistics.values():
            if not bool(statistics.sample.after.isfinite().all()):
                raise InputError(
                    f"model {self.model.id!r}: its states on the calibration text are not numbers; its "
                    f"weights hold NaN or infinity, or prune.calibration_dtype is too narrow for them."
                )
        return calibration

    def _confirm(self, cell: Cell, prune: records.Prune, expected: Expected) -> records.Prune:
        """What to record of a checkpoint that does what was fitted; one that does not is removed."""
        from replaceme.reload import reloaded_loss

        folder = self.checkpoints.folder(cell, self.source)
        try:
            prune.reloaded_loss = reloaded_loss(
                folder, expected, self.ledger.device, self.model.trust_remote_code
            )
        except InputError:
            discard(folder)
            discard(self.checkpoints.edit_file(cell))
            raise
        return prune

    def _write(
        self, cell: Cell, calibration: Calibration, text: CalibrationText
    ) -> tuple[records.Prune, Expected]:
        """Fit and save a cell; returns what to record of it, and what its checkpoint is to do."""
        from replaceme import write_checkpoint
        from replaceme.reload import Expected

        assert cell.solver is not None
        suite, solver = self.ledger.plan.suite, cell.solver.solver
        prune, data = cell.prune, suite.calibration
        variant = fitted(
            self.source,
            calibration,
            self.model,
            prune,
            data,
            text,
            cell.layers,
            solver,
            suite.date,
            self.ledger.progress.share,
        )
        found, choice, provenance = variant.fit, variant.choice, variant.provenance
        out, edit_file = (
            self.checkpoints.folder(cell, self.source),
            self.checkpoints.edit_file(cell),
        )
        stored = SavedLayers.of(self.source, calibration.decoder.architecture, self.model.dtype)
        save_edit(edit_file, stored.rounded(found.edit), provenance)
        write_checkpoint(
            self.source,
            out,
            found.edit,
            provenance,
            dtype=self.model.dtype,
            overwrite=True,
            trust_remote_code=self.model.trust_remote_code,
        )
        flush_to_disk(edit_file, out)
        if found.warning:
            self.ledger.progress.say(f"warning: {cell.name}: {found.warning}")
        prune_record = records.Prune(
            blocks=provenance.blocks,
            score=choice.score if choice else None,
            runner_up=provenance.runner_up,
            distances=_distances(calibration, prune.selector) if choice else None,
            runner_up_score=choice.runner_up_score if choice else None,
            relative_error=found.relative_error,
            mean_cosine=found.mean_cosine,
            loss=found.loss,
            intact_loss=found.intact_loss,
            held_back_tokens=calibration.held_back.batches.tokens,
            warning=found.warning,
            notes=found.notes,
            solve_seconds=found.seconds,
            calibration_tokens=calibration.tokens,
            calibration_hash=text.hash,
            calibration_rows=text.rows,
            calibration_seconds=calibration.seconds,
            **environment.peak_memory(),
            **_size(out, cell.model.trust_remote_code),
        )
        return prune_record, Expected.of(calibration, found, stored)

    def _measure_baseline(self, cell: Cell) -> records.Prune:
        folder = self.checkpoints.provide(cell, self.source)
        if folder != self.source:
            flush_to_disk(folder)
        return records.Prune(blocks=[], **_size(folder, cell.model.trust_remote_code))


def _distances(calibration: Calibration, selector: str) -> list[list[float | None]]:
    """Distance of each block by size and start, to five digits.

    At those tokens that the selector looks at.
    """
    assert calibration.distances is not None
    distances = calibration.distances[SELECTORS[selector].tokens == "all"]
    layers = len(distances)
    return [
        [
            round(float(distances[start - 1, start + size - 1]), 5)
            for start in range(1, layers - size + 1)
        ]
        for size in range(1, layers)
    ]


def _size(folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    found = matching.match(folder, trust_remote_code)
    return {
        "dtype": loading.checkpoint_dtype(folder),
        "parameters": found.parameters,
        "checkpoint_bytes": matching.file_bytes(folder, found),
    }
