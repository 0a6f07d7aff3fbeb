"""What is known of a model's layers, and what can be done to them; no weights are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from replaceme.architectures import (
    Architecture,
    Build,
    architecture_of,
    build_model,
    check_present,
    layer_count,
)
from replaceme.errors import InputError
from replaceme.io import contents, models
from replaceme.removal import check_removal
from replaceme.selection import Block

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Inspection:
    """What is known of a model.

    Attributes:
        model: as it was named.
        architecture: what its layers are.
        layers: number of them.
        removal: why the middle layer cannot be removed; ``None``: it can, and a small model without it
            computes the same when it is loaded again.
        solvers: for each solver with its usual parameters, why it does not work; ``None``: it does.
        diagonal: the same for a diagonal transform.
        files: whether weights were looked at, by their names.
    """

    model: str
    architecture: Architecture
    layers: int
    removal: str | None
    solvers: dict[str, str | None]
    diagonal: str | None
    files: bool = False


def inspect(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Inspection:
    """Look at a model: a hub id (of which the config alone is fetched), a folder, with or without
    weights, or a GGUF file.

    Raises:
        InputError: it cannot be had, or is no decoder.
    """
    from transformers import AutoConfig

    where = f"model {name!r}"
    folder = _find(name, revision)
    models.check_config(folder, name)
    said = models.read_config(folder)
    architecture = architecture_of(said, where, folder, trust_remote_code)
    files = bool(contents.weight_files(folder))
    if files:
        check_present(architecture, said, where, contents.tensor_names(folder))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    build = partial(build_model, trust_remote_code=trust_remote_code)
    return replace(judge(config, build, architecture, name), files=files)


def judge(config: PreTrainedConfig, build: Build, architecture: Architecture, name: str) -> Inspection:
    """What can be done to a model whose layers are known.

    Args:
        build: makes a model of a config.
    """
    from replaceme.solvers import SOLVERS

    count = layer_count(config.to_dict())
    middle = Block(count // 2, count // 2 + 1)
    removal = _reason(lambda: check_removal(config, build, architecture, (middle,), f"model {name!r}"))
    diagonal = SOLVERS["lstsq"].model_validate({"diagonal": True})
    return Inspection(
        name,
        architecture,
        count,
        removal,
        {key: _reason(partial(solver().check, architecture)) for key, solver in SOLVERS.items()},
        _reason(partial(diagonal.check, architecture)),
    )


def _find(name: str, revision: str | None) -> Path:
    if (folder := models.known_folder(name)) is not None:
        return folder
    if models.is_hub_id(name):
        return models.fetch_config(name, revision)
    return models.locate(name)


def _reason(check: Callable[[], None]) -> str | None:
    try:
        check()
    except InputError as error:
        return str(error)
    return None
