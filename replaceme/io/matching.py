"""Which tensors of a checkpoint's files are the model: those that transformers asks the files for.

Told by its own loading on the meta device, where a tensor has a shape and no values: renamed, merged
and tied tensors need no rule here, and nothing of the weights is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaceme.errors import InputError, told
from replaceme.io.auto import auto_class
from replaceme.io.contents import CONFIG, Stored, stored_tensors, weight_files
from replaceme.io.models import read_config
from replaceme.io.quiet import silence
from replaceme.io.tensorfile import read_header, tensor_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

SHOWN = 5  # names of a list that a message holds


@dataclass(frozen=True)
class Match:
    """How the tensors in a checkpoint's files and those of its model fit together.

    Attributes:
        own: tensors of the files that are the model, tied ones once.
        missing: tensors of the model that no file has, which transformers would fill at random.
        mismatched: those that the files have in another shape.
        untied: the config ties two tensors that differ in the files; transformers does not tie them.
    """

    own: dict[str, Stored]
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    untied: bool = False

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.entry.shape) for tensor in self.own.values())


def file_bytes(folder: Path, found: Match) -> int:
    """Bytes of a checkpoint's weight files without the tensors that are not the model."""
    files = weight_files(folder)
    held = sum(entry.end - entry.start for file in files for entry in read_header(file)[0])
    own = sum(tensor.bytes for tensor in found.own.values())
    return sum(file.stat().st_size for file in files) - held + own


def match(folder: Path, trust_remote_code: bool = False) -> Match:
    """The tensors of a checkpoint that are its model.

    All of them where the model's class is not to be had without running code that comes with it.

    Raises:
        InputError: transformers cannot make the model.
    """
    files = (folder / CONFIG, *weight_files(folder))
    state = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return _match(folder, trust_remote_code, state)


def check_complete(folder: Path, source: str, trust_remote_code: bool = False) -> None:
    """Refuse a checkpoint that lacks tensors of its model, or has them in another shape.

    Raises:
        InputError: naming them.
    """
    found = match(folder, trust_remote_code)
    refuse_incomplete(f"model {source!r}", found.missing, found.mismatched)


def refuse_incomplete(where: str, missing: tuple[str, ...], mismatched: tuple[str, ...]) -> None:
    """Refuse weights of which transformers would have to fill tensors at random.

    Raises:
        InputError: naming them.
    """
    if missing:
        raise InputError(
            f"{where} is not whole: its weights lack {_name_tensors(missing)}, which would be filled "
            f"with random numbers; complete the files, or correct {CONFIG} (tie_word_embeddings, sizes)."
        )
    if mismatched:
        raise InputError(
            f"{where} is not consistent: its weights hold {_name_tensors(mismatched)} in another shape "
            f"than {CONFIG} says; correct one of them."
        )


def cannot_load(folder: Path, error: Exception, trust_remote_code: bool, part: str = "") -> InputError:
    """What transformers says of a folder, or a part of it, that it cannot load, in a sentence."""
    if not trust_remote_code and "trust_remote_code" in str(error):
        kind = read_config(folder)["model_type"]
        return InputError(
            f"model {folder}: {kind!r} comes with code of its own, which is run only where "
            f"trust_remote_code is set; supported without it are models whose classes are part of "
            f"transformers."
        )
    return InputError(f"{part}model {folder} cannot be loaded: {told(error)}")


def _name_tensors(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more


@lru_cache(maxsize=16)
def _match(folder: Path, trust_remote_code: bool, _state: tuple[Any, ...]) -> Match:
    stored = stored_tensors(folder)
    asked: set[str] = set()
    slices = {name: _Slice(tensor, asked) for name, tensor in stored.items()}
    try:
        with silence():
            model, found = _loaded_on_meta(folder, slices, trust_remote_code)
    except Exception as error:
        if "auto_map" in read_config(folder):  # code that only works with values
            return Match(stored)
        raise cannot_load(folder, error, trust_remote_code) from error
    own = {name: tensor for name, tensor in stored.items() if name in asked}
    pairs = _tied_pairs(model, own)
    same = {target for target, source in pairs if _equal(own[target], own[source])}
    return Match(
        {name: tensor for name, tensor in own.items() if name not in same},
        tuple(sorted(found["missing_keys"])),
        tuple(sorted(name for name, *_ in found["mismatched_keys"])),
        untied=len(same) < len(pairs),
    )


class _Slice:
    """A tensor of a file as transformers sees it before it reads its values; tells that it is asked."""

    def __init__(self, tensor: Stored, asked: set[str]) -> None:
        self.entry, self.asked = tensor.entry, asked

    def get_dtype(self) -> str:
        return self.entry.dtype

    def get_shape(self) -> list[int]:
        return self.entry.shape

    def __getitem__(self, _: Any) -> Any:
        import torch

        self.asked.add(self.entry.name)
        return torch.empty(self.entry.shape, device="meta")


def _loaded_on_meta(
    folder: Path, slices: dict[str, _Slice], trust_remote_code: bool
) -> tuple[PreTrainedModel, dict[str, Any]]:
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        empty = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    return type(empty).from_pretrained(
        None,
        config=config,
        state_dict=slices,
        dtype=torch.float32,
        device_map={"": "meta"},
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )


def _tied_pairs(model: PreTrainedModel, own: dict[str, Stored]) -> list[tuple[str, str]]:
    """(target, source) of tensors that the model ties and the files both have, by their names there."""

    def in_files(name: str) -> str | None:
        return next((known for known in own if f".{name}".endswith(f".{known}")), None)

    ties = getattr(model, "all_tied_weights_keys", {}).items()
    found = [(in_files(target), in_files(source)) for target, source in ties]
    return [(target, source) for target, source in found if target and source]


def _equal(one: Stored, other: Stored) -> bool:
    import torch

    first, second = (_values(tensor) for tensor in (one, other))
    return first.shape == second.shape and torch.equal(first, second.to(first.dtype))


def _values(tensor: Stored) -> Tensor:
    with tensor.file.open("rb") as data:
        return tensor_of(tensor.entry, data)
