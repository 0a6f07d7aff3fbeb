"""The heal stage of a run: pruned variants of one model trained, one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from bench import records
from bench.run.checkpoints import Checkpoints, flush_to_disk
from bench.run.costs import heal_of, reload_of
from bench.run.host import environment
from bench.run.host.leftovers import discard
from bench.run.ledger import Ledger
from bench.run.stages.generate import provide
from bench.suite.matrix import Cell
from bench.suite.suite import ModelSpec
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError
from replaceme.healing.need import check_need
from replaceme.io import loading
from replaceme.io.editfile import load_edit, save_edit
from replaceme.io.saved import SavedLayers
from replaceme.recipe import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from replaceme.calibration import CalibrationText
    from replaceme.decoder import Decoder
    from replaceme.reload import Expected


class HealStage:
    """Trains what the cells of one model lack, from what their solvers found."""

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
        self.saved = SavedLayers.of(self.source, checkpoint.architecture, model.dtype)
        lacking = [cell for cell in cells if cell.heal and self._lacks(cell)]
        self.cells = sorted(lacking, key=_end)  # each goes on from where the one before left

    def _lacks(self, cell: Cell) -> bool:
        """Whether a cell is pruned and not healed, or what was trained is gone and asked for again."""
        due = self.ledger.list_due(cell)
        if "prune" in due or not self.ledger.records[cell].prune:
            return False
        return "heal" in due or self.checkpoints.is_lost(cell, self.source, due)

    def execute(self) -> None:
        made: dict[Cell, tuple[records.Heal, Expected]] = {}
        if self.cells:
            with self.ledger.guard((cell, "heal") for cell in self.cells if cell not in made):
                self._train(made)
        for cell, (healed, expected) in made.items():
            self.ledger.progress.step(f"{cell.name}: loading what was saved", reload_of(cell))
            with self.ledger.stage(cell, "heal") as record:
                record.heal = self._confirm(cell, healed, expected)
        left = {self._state(cell) for cell in self.cells if cell not in made}
        for state in {self._state(cell) for cell in made} - left:
            discard(state)

    @loading.enough_memory()
    def _train(self, made: dict[Cell, tuple[records.Heal, Expected]]) -> None:
        """Train every cell and save it; the model is gone when this returns."""
        from replaceme.decoder import Decoder

        texts: dict[Cell, CalibrationText] = {}
        for cell in self.cells:
            with self.ledger.guard([(cell, "heal")]):
                texts[cell] = self._text(cell)
        if not texts:
            return
        self.ledger.progress.step(f"{self.model.name}: loading for healing")
        own = self.model.dtype or loading.checkpoint_dtype(self.source)
        device = self.ledger.device
        model, tokenizer = self.checkpoint.load(loading.training_dtype(own, device), device)
        decoder = Decoder.of(model)
        for cell, text in texts.items():
            self.ledger.progress.step(f"{cell.name}: healing", heal_of(cell))
            with self.ledger.guard([(cell, "heal")]):
                made[cell] = self._heal(cell, text, decoder, tokenizer)

    @loading.enough_memory()
    def _heal(
        self, cell: Cell, text: CalibrationText, decoder: Decoder, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[records.Heal, Expected]:
        """Train and save a cell; returns what to record of it, and what its checkpoint is to do."""
        from replaceme.healing.heal import heal
        from replaceme.healing.pair import Pair
        from replaceme.healing.places import Places

        assert cell.heal is not None
        start, provenance = load_edit(self.checkpoints.edit_file(cell.pruned))
        longest = max(map(len, text.sequences))
        half, device = decoder.model.dtype.itemsize == 2, self.ledger.device
        check_need(self.checkpoint, cell.heal, longest, start.blocks, half, device)
        pair = Pair.of_edit(decoder, self.saved.with_values(decoder.model, start))
        places = Places(pair.student.architecture, self.saved, pair.kept)
        healed = heal(
            pair,
            text,
            cell.heal,
            places,
            tokenizer=tokenizer,
            state=self._state(cell),
            key=digest([cell.identity.training.canonical(), text.hash, self.ledger.device]),
            report=self.ledger.progress.share,
        )
        edit = pair.extend(start, places.edit(healed.values))
        edit_file = self.checkpoints.edit_file(cell)
        traced = provenance.model_copy(update={"healed": [*provenance.healed, healed.facts]})
        out, dtype = self.checkpoints.folder(cell, self.source), self.model.dtype
        save_edit(edit_file, self.saved.rounded(edit), traced)
        self.checkpoint.write(edit, out, traced, dtype=dtype, overwrite=True)
        flush_to_disk(edit_file, out)
        if healed.facts.warning:
            self.ledger.progress.say(f"warning: {cell.name}: {healed.facts.warning}")
        made = records.Heal(**healed.facts.model_dump(), **environment.peak_memory())
        return made, healed.expected

    def _text(self, cell: Cell) -> CalibrationText:
        from replaceme.healing.examples import read_healing_text

        suite = self.ledger.plan.suite
        assert cell.heal is not None
        data = provide(self.ledger, self.checkpoint, cell, cell.heal.text(suite.calibration))
        text = read_healing_text(self.checkpoint, cell.heal, data, suite.date)
        if cell.heal.dataset and text.rows and (notice := text.rows.notice()):
            self.ledger.progress.say(f"{cell.name}: {notice}")
        return text

    def _confirm(self, cell: Cell, made: records.Heal, expected: Expected) -> records.Heal:
        """What to record of a checkpoint that does what was trained; one that does not is removed."""
        folder = self.checkpoints.folder(cell, self.source)
        try:
            self.checkpoint.confirm(folder, expected, self.ledger.device)
        except InputError:
            discard(folder)
            discard(self.checkpoints.edit_file(cell))
            raise
        return made

    def _state(self, cell: Cell) -> Path:
        """Where a training lies as long as it is not done, which cells share that leave it at different
        tokens."""
        return self.ledger.out / "healing" / f"{cell.trained.stem}.safetensors"


def _end(cell: Cell) -> float:
    return (cell.heal and cell.heal.until) or math.inf
