"""Gram matrices, at little more than half of a product's work."""

from __future__ import annotations

import torch
from torch import Tensor

PANELS = 8
NARROWEST = 128  # columns of a panel, at least


def compute_gram(rows: Tensor) -> Tensor:
    """XᵀX [k, k] of X [n, k], in its dtype and on its device.

    What is below the diagonal is copied from above it: panels of columns are multiplied with themselves
    and those to their right, (1 + 1/:data:`PANELS`)/2 of the work. The same for every device, as torch
    has no ``syrk``.
    """
    width = rows.shape[1]
    size = max(NARROWEST, -(-width // PANELS))
    found = rows.new_empty(width, width)
    for start in range(0, width, size):
        here, beyond = slice(start, start + size), slice(start + size, None)
        torch.mm(rows[:, here].mT, rows[:, start:], out=found[here, start:])
        found[beyond, here] = found[here, beyond].mT
    return found
