"""Text that a model writes itself, before the stages that read it."""

from __future__ import annotations

from bench.run.costs import own_text_of
from bench.run.ledger import Ledger
from bench.run.own_text import OwnText
from bench.suite.matrix import Cell
from replaceme.calibration import CalibrationData
from replaceme.checkpoint import Checkpoint


def provide(
    ledger: Ledger, checkpoint: Checkpoint, cell: Cell, data: CalibrationData
) -> CalibrationData:
    """A text as it can be read: one that the model of a cell writes itself is written where it is not.

    Nothing else of the model may be in memory.

    Raises:
        InputError: it cannot be written.
        OutputError: its file cannot.
    """
    if data.generated is None:
        return data
    text = OwnText.of(cell, data, ledger.plan.suite.date, ledger.out)
    if not text.file.is_file():
        from bench.writing.write import write_text
        from replaceme.allocator import free_memory

        free_memory()  # of what was loaded before, which the engine would count as taken
        ledger.progress.step(text.describe(), own_text_of(text))
        written = write_text(
            checkpoint,
            data,
            text.file,
            text.key,
            ledger.plan.suite.date,
            logs=ledger.out / "logs",
            report=ledger.progress.share,
        )
        ledger.progress.say(f"{cell.model.name} wrote {written.tell()}.")
    return data.written(text.file)
