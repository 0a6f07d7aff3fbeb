"""Training-free depth pruning of language models (ReplaceMe, arXiv 2505.02819).

A checkpoint on disk, to a checkpoint on disk:

    >>> import replaceme
    >>> made = replaceme.prune_checkpoint("org/model", "out", layers=6)

A model in memory, in place:

    >>> pruned = replaceme.prune(model, tokenizer, texts, layers=6)
    >>> pruned.model.save_pretrained("out")

A pruned checkpoint trained for a while toward the intact model's predictions:

    >>> healed = replaceme.heal_checkpoint("out", "healed", teacher="org/model", tokens="200k")

Several variants of one model, which is loaded and calibrated once: :class:`Checkpoint`.

Names are loaded on first use, so that importing the package does not import torch. What is not in
``__all__`` and not in a module of ``PUBLIC_MODULES`` may change at any time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from replaceme.errors import InputError, OutputError
from replaceme.selection import Block

if TYPE_CHECKING:
    from replaceme.calibrating import Calibration, calibrate
    from replaceme.calibration import Batches, CalibrationData, CalibrationText
    from replaceme.checkpoint import Checkpoint
    from replaceme.edit import Edit
    from replaceme.fitting import Fit, fit
    from replaceme.healing.checkpoint import HealedCheckpoint, heal_checkpoint
    from replaceme.healing.options import HealOptions
    from replaceme.healing.settings import HealSettings
    from replaceme.options import PruneOptions
    from replaceme.provenance import Provenance
    from replaceme.pruned_checkpoint import PrunedCheckpoint, apply_edit, prune_checkpoint
    from replaceme.pruning import Pruned, prune
    from replaceme.selection import Choice
    from replaceme.selectors import Selection
    from replaceme.session import Session, Variant
    from replaceme.solvers import Solver, make_solver
    from replaceme.surgery import write_checkpoint

__version__ = "0.1.0"

_LAZY = {
    "Batches": "replaceme.calibration",
    "Calibration": "replaceme.calibrating",
    "CalibrationData": "replaceme.calibration",
    "CalibrationText": "replaceme.calibration",
    "Checkpoint": "replaceme.checkpoint",
    "Choice": "replaceme.selection",
    "Edit": "replaceme.edit",
    "Fit": "replaceme.fitting",
    "HealOptions": "replaceme.healing.options",
    "HealSettings": "replaceme.healing.settings",
    "HealedCheckpoint": "replaceme.healing.checkpoint",
    "Provenance": "replaceme.provenance",
    "PruneOptions": "replaceme.options",
    "Pruned": "replaceme.pruning",
    "PrunedCheckpoint": "replaceme.pruned_checkpoint",
    "Selection": "replaceme.selectors",
    "Session": "replaceme.session",
    "Solver": "replaceme.solvers",
    "Variant": "replaceme.session",
    "apply_edit": "replaceme.pruned_checkpoint",
    "calibrate": "replaceme.calibrating",
    "fit": "replaceme.fitting",
    "heal_checkpoint": "replaceme.healing.checkpoint",
    "make_solver": "replaceme.solvers",
    "prune": "replaceme.pruning",
    "prune_checkpoint": "replaceme.pruned_checkpoint",
    "write_checkpoint": "replaceme.surgery",
}

PUBLIC_MODULES = {
    "replaceme.allocator": "what the C library does with memory that is freed",
    "replaceme.amounts": "numbers as people write them",
    "replaceme.architectures": "what a decoder layer is, as measured",
    "replaceme.calibrating": "a loaded model calibrated, at once or in parts",
    "replaceme.calibration": "data set → token sequences → batches",
    "replaceme.chat": "chat templates as of a fixed day",
    "replaceme.checkpoint": "a model on disk, from its name to pruned checkpoints",
    "replaceme.compat.commands": "the published commands",
    "replaceme.compat.config": "the published YAML files",
    "replaceme.decoder": "running a loaded model layer by layer",
    "replaceme.divergence": "how far predictions are from the intact model's",
    "replaceme.edit": "what pruning changes, and how it is done to a loaded model",
    "replaceme.errors": "errors that a user can mend",
    "replaceme.facts": "what is measured of a fit",
    "replaceme.healing.checkpoint": "one pruned checkpoint → one healed checkpoint",
    "replaceme.healing.examples": "what a pruned model is trained on",
    "replaceme.healing.heal": "a pruned model is trained for a while",
    "replaceme.healing.need": "the memory that healing takes",
    "replaceme.healing.options": "what can be said of one healed checkpoint",
    "replaceme.healing.pair": "an intact model and a pruned one that share what is the same",
    "replaceme.healing.places": "where what was trained is saved",
    "replaceme.healing.settings": "what a suite says of healing",
    "replaceme.hooks": "modules and parameters that are something else for a while",
    "replaceme.inspection": "what is known of a model's layers, without its weights",
    "replaceme.io.auto": "which class of transformers a checkpoint is loaded with",
    "replaceme.io.contents": "which files of a folder are the model",
    "replaceme.io.editfile": "edits as files",
    "replaceme.io.files": "files written whole or not at all",
    "replaceme.io.layers": "decoder layers that stay in their files",
    "replaceme.io.loading": "a folder → a loaded model",
    "replaceme.io.matching": "which tensors of the files are the model",
    "replaceme.io.models": "a model's name → a folder, and its fingerprint",
    "replaceme.io.saved": "the dtypes that weights are saved in",
    "replaceme.io.tensorfile": "safetensors files, tensor by tensor",
    "replaceme.io.yaml_file": "YAML with the line of every value",
    "replaceme.io.yaml_source": "YAML → a checked model of its keys",
    "replaceme.memory": "a model within a limit on memory",
    "replaceme.lengths": "models whose states depend on how long a batch is",
    "replaceme.logits": "how many logits are held at once",
    "replaceme.options": "what can be said of one pruned checkpoint",
    "replaceme.provenance": "where a checkpoint comes from, in JSON and in words",
    "replaceme.pruned_checkpoint": "one checkpoint → one pruned checkpoint",
    "replaceme.recipe": "what is made of a model, step by step",
    "replaceme.reload": "whether a written checkpoint does what was fitted",
    "replaceme.room": "where states wait between layers",
    "replaceme.report": "how what takes long tells how far it is",
    "replaceme.selection": "blocks of layers",
    "replaceme.selectors": "how blocks are chosen: the registry",
    "replaceme.session": "a calibrated model and its variants",
    "replaceme.settings": "what suites and commands say in the same words",
    "replaceme.solvers": "how layers are made up for: the registry",
    "replaceme.sums": "sums over parts of tokens, the same whoever adds them up",
}

__all__ = [
    "PUBLIC_MODULES",
    "Batches",
    "Block",
    "Calibration",
    "CalibrationData",
    "CalibrationText",
    "Checkpoint",
    "Choice",
    "Edit",
    "Fit",
    "HealOptions",
    "HealSettings",
    "HealedCheckpoint",
    "InputError",
    "OutputError",
    "Provenance",
    "PruneOptions",
    "Pruned",
    "PrunedCheckpoint",
    "Selection",
    "Session",
    "Solver",
    "Variant",
    "apply_edit",
    "calibrate",
    "fit",
    "heal_checkpoint",
    "make_solver",
    "prune",
    "prune_checkpoint",
    "write_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'replaceme' has no attribute {name!r}")
