"""In which order sequences are trained on: the same for the same seed, wherever it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from replaceme.calibration import Batches

Rows = list[list[int]]


def list_steps(batches: Batches, seed: int) -> Iterator[Rows]:
    """The sequences of each step, without end: all of them in a random order, then all again in another.

    What does not fill a last step of a round waits for the next round; fewer sequences than a step takes
    are one step.
    """
    import torch

    sequences, size = batches.sequences, batches.batch_size
    for epoch in count():
        chance = torch.Generator().manual_seed(seed + epoch)
        shuffled = [sequences[i] for i in torch.randperm(len(sequences), generator=chance).tolist()]
        steps = [
            alike[start : start + size]
            for alike in batches.lengths.groups(shuffled, len)
            for start in range(0, len(alike), size)
        ]
        whole = [step for step in steps if len(step) == size] or steps
        yield from (whole[i] for i in torch.randperm(len(whole), generator=chance).tolist())


def split(rows: Sequence[list[int]], parts: int) -> list[Rows]:
    """A step's sequences in several forwards, those of similar length together."""
    ordered = sorted(rows, key=len, reverse=True)
    size = -(-len(ordered) // parts)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
