"""How many layers a model has, as far as this machine knows, and what is made of each model."""

from __future__ import annotations

from bench.suite.prune_spec import PruneSpec
from bench.suite.suite import ModelSpec, Suite
from replaceme.architectures import layer_count
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError
from replaceme.io import models


def prune_of(suite: Suite, model: ModelSpec) -> PruneSpec:
    """The ``prune`` section as it is for one model: its own matrix, shares as whole numbers.

    Nothing is downloaded.

    Raises:
        InputError: the layers of a model that a share is taken of are not known here, or the counts
            cannot be removed.
    """
    prune = suite.prune.changed(model.matrix)
    if not (shares := [count for count in prune.layers if isinstance(count, str)]):
        return prune
    if (num_layers := known_layers(model)) is None:
        raise InputError(
            f"model {model.id!r}: how many layers {shares[0]} is takes the model's config, which is not "
            f"on this machine; say in the model's entry how many it has, such as 'num_layers: 32'."
        )
    try:
        return prune.resolved(num_layers)
    except ValueError as error:
        raise InputError(f"model {model.id!r}: {error}.") from None


def known_layers(model: ModelSpec) -> int | None:
    """Decoder layers of a model: as its entry says, or by a config on this machine."""
    if model.num_layers is not None:
        return model.num_layers
    folder = models.known_folder(model.id)
    if folder is not None:
        models.check_folder(folder, model.id)
        return layer_count(models.read_config(folder))
    return _cached_layers(model) if models.is_hub_id(model.id) else None


def check_declared(model: ModelSpec, checkpoint: Checkpoint) -> None:
    """Refuse a model that has another number of layers than its entry says.

    Raises:
        InputError: with both numbers.
    """
    if model.num_layers not in (None, checkpoint.layers):
        raise InputError(
            f"model {model.id!r} has {checkpoint.layers} layers, but its entry says num_layers: "
            f"{model.num_layers}."
        )


def _cached_layers(model: ModelSpec) -> int | None:
    """By the config in the hub's cache, if it has been downloaded before."""
    folder = models.cached_folder(model.id, model.revision)
    try:
        return layer_count(models.read_config(folder)) if folder else None
    except (OSError, ValueError, TypeError):
        return None
