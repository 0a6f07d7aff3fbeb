"""The one walk through a model, for everything that looks inside it.

For every chunk of batches, for every layer: the layer is brought, and all batches of the chunk pass
through it. Where the whole model is in memory a chunk is one batch, and nothing has to be brought; where
its layers stay in their files (:mod:`replaceme.io.layers`) a chunk is as large as can be, since each
costs one read of them. What is read inside, and what becomes of it, is said by a visitor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from replaceme.decoder import Call, Decoder, Read, capture
from replaceme.edit import (
    Edit,
    change_layer,
    change_outside,
    edit_temporarily,
    prune_temporarily,
)
from replaceme.errors import InputError
from replaceme.report import Report, no_report

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.calibration import Batch, Batches
    from replaceme.room import Kept
    from replaceme.sums import Portion


class Visitor(Protocol):
    """What is looked at."""

    def reads(self, layer: int) -> dict[Any, Read]:
        """What to read while a layer runs."""
        ...

    def see(self, layer: int, number: int, batch: Batch, seen: dict[Any, Tensor]) -> None:
        """What was read; for each layer the batches come in their order.

        Args:
            number: of the batch among all.
        """
        ...


@dataclass
class Stream:
    """A batch on its way.

    Attributes:
        calls: what each layer is called with.
        states: [sequences, tokens, d], those that enter the next layer.
    """

    number: int
    batch: Batch
    calls: list[Call]
    states: Kept


def walk(
    decoder: Decoder,
    batches: Batches | Portion,
    visitor: Visitor,
    *,
    edit: Edit = Edit(),  # noqa: B008
    until: int | None = None,
    report: Report = no_report,
) -> None:
    """Take batches through the layers of a model.

    Args:
        edit: what is other in the model that they go through.
        until: the first layer that is not run; ``None``: all are.
        report: told which share is done.
    """
    layers = [layer for layer in edit.kept(len(decoder.layers)) if until is None or layer < until]
    if not decoder.hands_on_states_alone:
        _run_whole(decoder, batches, visitor, edit, layers, report)
        return
    total, done = len(batches) * len(layers), 0
    model, architecture = decoder.model, decoder.architecture
    whole = edit_temporarily(model, architecture, edit) if decoder.is_resident else None
    with whole or change_outside(model, edit):
        for chunk in chunks(enumerate(batches), decoder.chunk):
            streams = [enter(decoder, number, batch) for number, batch in chunk]
            for layer in layers:
                pass_layer(decoder, layer, streams, visitor, Edit() if whole else edit)
                done += len(streams)
                if len(streams) > 1 or layer == layers[-1]:
                    report(done / total)


def chunks(items: Iterable[Any], size: int | None) -> Iterator[Sequence[Any]]:
    """So many items after the other; ``None``: all at once."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def enter(decoder: Decoder, number: int, batch: Batch) -> Stream:
    """A batch before the first layer."""
    states, calls = decoder.enter(batch)
    return Stream(number, batch, calls, decoder.room.put(states))


def pass_layer(
    decoder: Decoder,
    layer: int,
    streams: list[Stream],
    visitor: Visitor | None = None,
    edit: Edit = Edit(),  # noqa: B008
) -> None:
    """Take all batches of a chunk through a layer."""
    reads = visitor.reads(layer) if visitor else {}
    with change_layer(decoder.model, decoder.architecture, edit, layer):
        for stream in streams:
            states = stream.states.read()
            del stream.states
            with capture(reads) as seen:
                states = decoder.step(layer, states, stream.calls[layer])
                decoder.pass_norm(layer, states)
            stream.states = decoder.room.put(states)
            if visitor:
                visitor.see(layer, stream.number, stream.batch, seen)


def _run_whole(
    decoder: Decoder,
    batches: Batches | Portion,
    visitor: Visitor,
    edit: Edit,
    layers: list[int],
    report: Report,
) -> None:
    """The same for a model that hands on more than states: in whole forwards, which need all of it in
    memory.

    Raises:
        InputError: it is not.
    """
    if not decoder.is_resident:
        raise InputError(
            f"{decoder.architecture.title} hands more than hidden states from layer to layer, so that "
            f"they cannot be brought one by one; it must fit into memory as a whole."
        )
    reads = {(layer, key): read for layer in layers for key, read in visitor.reads(layer).items()}
    for number, batch in enumerate(batches):
        with prune_temporarily(decoder.model, decoder.architecture, edit):
            found = decoder.run(batch, reads, until=len(layers))
        for layer in layers:
            seen = {key: states for (where, key), states in found.items() if where == layer}
            visitor.see(layer, number, batch, seen)
        report((number + 1) / len(batches))
