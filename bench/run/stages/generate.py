"""Text that a model writes itself, before the stages that read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench.run.costs import own_text_of
from bench.run.executors import Job
from bench.run.ledger import Ledger
from bench.run.own_text import OwnText
from bench.suite.matrix import Cell
from replaceme.calibration import CalibrationData
from replaceme.checkpoint import Checkpoint

if TYPE_CHECKING:
    from bench.scoring.generation.texts import Entry


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
        from bench.writing.write import run_engine, write_text
        from replaceme.allocator import free_memory

        free_memory()  # of what was loaded before, which the engine would count as taken

        def run(*asked: Any) -> Iterator[list[Entry]]:
            title, cost = text.describe(), own_text_of(text)
            job = Job(run_engine, asked, title=title, cost=cost, resumes=True)
            for _, outcome in ledger.run([job]):
                yield outcome.get()

        written = write_text(
            checkpoint,
            data,
            text.file,
            text.key,
            ledger.plan.suite.date,
            device=ledger.executor.device,
            written_on=ledger.machine.served_on,
            logs=ledger.out.absolute() / "logs",
            run=run,
        )
        ledger.progress.say(f"{cell.model.name} wrote {written.tell()}.")
    return data.written(text.file)
