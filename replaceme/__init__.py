"""Training-free depth pruning of language models (ReplaceMe, arXiv 2505.02819).

    >>> import replaceme
    >>> pruned = replaceme.prune(model, tokenizer, texts, layers=6)
    >>> pruned.model.save_pretrained("out")

Names are loaded on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from replaceme.errors import InputError, OutputError
from replaceme.selection import Block

if TYPE_CHECKING:
    from replaceme.edit import Edit
    from replaceme.fitting import Fit, fit
    from replaceme.provenance import Provenance
    from replaceme.pruning import Calibration, Pruned, calibrate, prune
    from replaceme.solvers import make_solver
    from replaceme.surgery import write_checkpoint

__version__ = "0.1.0"

_LAZY = {
    "Calibration": "replaceme.pruning",
    "Edit": "replaceme.edit",
    "Fit": "replaceme.fitting",
    "Provenance": "replaceme.provenance",
    "Pruned": "replaceme.pruning",
    "calibrate": "replaceme.pruning",
    "fit": "replaceme.fitting",
    "make_solver": "replaceme.solvers",
    "prune": "replaceme.pruning",
    "write_checkpoint": "replaceme.surgery",
}

__all__ = [
    "Block",
    "Calibration",
    "Edit",
    "Fit",
    "InputError",
    "OutputError",
    "Provenance",
    "Pruned",
    "calibrate",
    "fit",
    "make_solver",
    "prune",
    "write_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'replaceme' has no attribute {name!r}")
