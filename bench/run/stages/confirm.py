"""The end of the stages that write checkpoints: each is loaded again before it is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from bench.records import Heal, Prune
from bench.run.checkpoints import Checkpoints
from bench.run.costs import reload_of
from bench.run.executors import Job
from bench.run.host.leftovers import discard
from bench.run.ledger import Ledger
from bench.suite.matrix import Cell
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError, NoMemoryError

if TYPE_CHECKING:
    from replaceme.reload import Expected

Made = TypeVar("Made", Prune, Heal)


def confirm(
    ledger: Ledger,
    checkpoints: Checkpoints,
    source: Checkpoint,
    stage: str,
    written: dict[Cell, tuple[Made, Expected]],
) -> None:
    """Record the checkpoints that do what was found; one that does not is removed, with what was found.

    Args:
        source: the intact model.
        written: cell → what to record of it, and what its checkpoint is to do.
    """
    cells, folder = [*written], checkpoints.folder
    jobs = [
        Job(
            source.confirm,
            (folder(cell, source.folder), expected, ledger.device, ledger.memory),
            title=f"{cell.name}: loading what was saved",
            cost=reload_of(cell),
        )
        for cell, (_, expected) in written.items()
    ]
    for number, outcome in ledger.run(jobs):
        cell = cells[number]
        with ledger.stage(cell, stage) as record:
            if _is_wrong(outcome.error):
                discard(folder(cell, source.folder))
                discard(checkpoints.edit_file(cell if stage == "heal" else cell.pruned))
            made, _ = written[cell]
            made.reloaded_loss = outcome.get()
            setattr(record, stage, made)


def _is_wrong(error: Exception | None) -> bool:
    """Whether a checkpoint was refused for what it is, and not for want of memory."""
    return isinstance(error, InputError) and not isinstance(error, NoMemoryError)
