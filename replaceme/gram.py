"""Gram matrices, at little more than half of a product's work."""

from __future__ import annotations

import torch
from torch import Tensor

PANELS = 8
NARROWEST = 128  # columns of a panel, at least


def add_gram(total: Tensor, rows: Tensor) -> Tensor:
    """Add XᵀX of X [n, k] to a total [k, k] of its dtype or a wider one, on its device; returns it.

    What is below the diagonal is copied from above it: panels of columns are multiplied with themselves
    and those to their right, (1 + 1/:data:`PANELS`)/2 of the work, and no other matrix of the size of
    the total is made. The same for every device, as torch has no ``syrk``.
    """
    width = rows.shape[1]
    size = max(NARROWEST, -(-width // PANELS))
    for start in range(0, width, size):
        here, beyond = slice(start, start + size), slice(start + size, None)
        total[here, start:] += rows[:, here].mT @ rows[:, start:]
        total[beyond, here] = total[here, beyond].mT
    return total


def compute_gram(rows: Tensor) -> Tensor:
    """XᵀX [k, k] float64 of X [n, k], the products in its dtype."""
    width = rows.shape[1]
    return add_gram(rows.new_zeros(width, width, dtype=torch.float64), rows)
