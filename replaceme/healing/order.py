"""In which order sequences are trained on: the same for the same seed, wherever it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from itertools import count
from typing import TypeVar

from replaceme.lengths import Lengths

Row = TypeVar("Row", bound=Sized)  # a sequence of tokens, with or without more about it


def list_steps(rows: Sequence[Row], size: int, lengths: Lengths, seed: int) -> Iterator[list[Row]]:
    """The sequences of each step, without end: all of them in a random order, then all again in another.

    What does not fill a last step of a round waits for the next round; fewer sequences than a step takes
    are one step.

    Args:
        size: sequences in a step.
        lengths: which sequences the model treats alike; only these come together.
    """
    import torch

    for epoch in count():
        chance = torch.Generator().manual_seed(seed + epoch)
        shuffled = [rows[i] for i in torch.randperm(len(rows), generator=chance).tolist()]
        steps = [
            alike[start : start + size]
            for alike in lengths.groups(shuffled, len)
            for start in range(0, len(alike), size)
        ]
        whole = [step for step in steps if len(step) == size] or steps
        yield from (whole[i] for i in torch.randperm(len(whole), generator=chance).tolist())


def split(rows: Sequence[Row], parts: int) -> list[list[Row]]:
    """A step's sequences in several forwards, those of similar length together."""
    ordered = sorted(rows, key=len, reverse=True)
    size = -(-len(ordered) // parts)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
