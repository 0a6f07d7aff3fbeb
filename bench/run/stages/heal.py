"""The heal stage of a run: pruned variants of one model trained, one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bench import records
from bench.run.checkpoints import Checkpoints, flush_to_disk
from bench.run.costs import heal_of
from bench.run.executors import Held, Job
from bench.run.host import environment
from bench.run.host.leftovers import discard
from bench.run.ledger import Ledger
from bench.run.stages.confirm import confirm
from bench.run.stages.generate import provide
from bench.suite.matrix import Cell
from bench.suite.suite import ModelSpec
from replaceme.allocator import free_memory
from replaceme.checkpoint import Checkpoint
from replaceme.healing.need import Need, Sizes, check_need
from replaceme.io import loading
from replaceme.io.editfile import load_edit, save_edit
from replaceme.io.saved import SavedLayers
from replaceme.recipe import digest
from replaceme.selection import Block

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from replaceme.calibration import CalibrationText
    from replaceme.decoder import Decoder
    from replaceme.reload import Expected
    from replaceme.report import Report


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
        self.ledger.executor.let_go()  # one model at a time in memory
        confirm(self.ledger, self.checkpoints, self.checkpoint, "heal", made)
        left = {self._state(cell) for cell in self.cells if cell not in made}
        for state in {self._state(cell) for cell in made} - left:
            discard(state)

    def _train(self, made: dict[Cell, tuple[records.Heal, Expected]]) -> None:
        """Train every cell and save it: those of one training one after the other."""
        texts: dict[Cell, CalibrationText] = {}
        for cell in self.cells:
            with self.ledger.guard([(cell, "heal")]):
                texts[cell] = self._text(cell)
        while texts:
            first = {cell.trained.stem: cell for cell in reversed(texts)}.values()
            cells = [cell for cell in texts if cell in first]
            jobs = [self._job(cell, texts.pop(cell)) for cell in cells]
            for number, outcome in self.ledger.run(jobs):
                cell = cells[number]
                with self.ledger.guard([(cell, "heal")]):
                    *found, warning = outcome.get()
                    if warning:
                        self.ledger.progress.say(f"warning: {cell.name}: {warning}")
                    made[cell] = found[0], found[1]

    def _job(self, cell: Cell, text: CalibrationText) -> Job:
        need, dtype = self._compute_need(cell, text)
        limit = (self.ledger.memory, need.passing) if need.is_brought(self.ledger.memory) else ()
        held = Held(load, (self.checkpoint, dtype, self.ledger.device, *limit))
        order = Order(
            cell,
            self.checkpoint,
            text,
            self.ledger.device,
            need,
            start=self.checkpoints.edit_file(cell.pruned),
            edit_file=self.checkpoints.edit_file(cell),
            out=self.checkpoints.folder(cell, self.source),
            state=self._state(cell),
            memory=self.ledger.memory,
        )
        return Job(train_and_save, (order,), held, f"{cell.name}: healing", heal_of(cell))

    def _compute_need(self, cell: Cell, text: CalibrationText) -> tuple[Need, str]:
        """What a training takes, and the dtype that it runs in."""
        own, device = self.model.dtype or loading.checkpoint_dtype(self.source), self.ledger.device
        prune, dtype = self.ledger.records[cell].prune, loading.training_dtype(own, device)
        assert cell.heal and prune
        blocks, longest = [Block(*block) for block in prune.blocks], max(map(len, text.sequences))
        half = dtype != "float32"
        return self._sizes.compute_need(cell.heal, longest, blocks, half, device), dtype

    @cached_property
    def _sizes(self) -> Sizes:
        return Sizes.of(self.checkpoint)

    def _text(self, cell: Cell) -> CalibrationText:
        from replaceme.healing.examples import read_healing_text

        suite = self.ledger.plan.suite
        assert cell.heal is not None
        data = provide(self.ledger, self.checkpoint, cell, cell.heal.text(suite.calibration))
        text = read_healing_text(self.checkpoint, cell.heal, data, suite.date)
        if cell.heal.dataset and text.rows and (notice := text.rows.notice()):
            self.ledger.progress.say(f"{cell.name}: {notice}")
        return text

    def _state(self, cell: Cell) -> Path:
        """Where a training lies as long as it is not done, which cells share that leave it at different
        tokens."""
        return self.ledger.out.absolute() / "healing" / f"{cell.trained.stem}.safetensors"


# ---- what is done by whoever holds the model


@dataclass(frozen=True)
class Order:
    """A cell to train.

    Attributes:
        source: the intact model.
        need: what the training takes of its device.
        start: file with what its solver found.
        edit_file, out: where what is trained goes, and the checkpoint with it.
        state: where the training lies as long as it is not done.
        memory: bytes that it may take; ``None``: all.
    """

    cell: Cell
    source: Checkpoint
    text: CalibrationText
    device: str
    need: Need
    start: Path
    edit_file: Path
    out: Path
    state: Path
    memory: int | None


def load(
    checkpoint: Checkpoint, dtype: str, device: str, memory: int | None = None, passing: int = 0
) -> tuple[Decoder, PreTrainedTokenizerBase]:
    """The intact model.

    Args:
        memory: bytes that may be taken, as its layers are brought one by one; ``None``: it is loaded
            whole.
        passing: bytes of what comes and goes beside it.
    """
    from replaceme.decoder import Decoder

    if memory is None:
        model, tokenizer = checkpoint.load(dtype, device)
        return Decoder.of(model), tokenizer
    model, tokenizer, room = checkpoint.load_by_layers(memory, passing, dtype, device)
    return Decoder.of(model, room=room), tokenizer


def train_and_save(
    held: tuple[Decoder, PreTrainedTokenizerBase], order: Order, report: Report
) -> tuple[records.Heal, Expected, str | None]:
    """Train a cell, and save what was found and the checkpoint with it.

    Returns:
        What to record of it, what its checkpoint is to do, and a warning.
    """
    from replaceme.healing.heal import heal
    from replaceme.healing.pair import Pair
    from replaceme.healing.places import Places

    free_memory()  # of the student before, which is in circles of references
    (decoder, tokenizer), cell, text, source = held, order.cell, order.text, order.source
    assert cell.heal is not None
    dtype = cell.model.dtype
    saved = SavedLayers.of(source.folder, source.architecture, dtype)
    start, provenance = load_edit(order.start)
    check_need(order.need, cell.heal, order.device, order.memory)
    pair = Pair.of_edit(decoder, saved.with_values(decoder.model, start))
    places = Places(pair.student.architecture, saved, pair.kept)
    healed = heal(
        pair,
        text,
        cell.heal,
        places,
        tokenizer=tokenizer,
        state=order.state,
        key=digest([cell.identity.training.canonical(), text.hash, order.device]),
        report=report,
    )
    edit = pair.extend(start, places.edit(healed.values))
    traced = provenance.model_copy(update={"healed": [*provenance.healed, healed.facts]})
    save_edit(order.edit_file, saved.rounded(edit), traced)
    source.write(edit, order.out, traced, dtype=dtype, overwrite=True)
    flush_to_disk(order.edit_file, order.out)
    made = records.Heal(**healed.facts.model_dump(), **environment.peak_memory())
    return made, healed.expected, healed.facts.warning


def _end(cell: Cell) -> float:
    return (cell.heal and cell.heal.until) or math.inf
