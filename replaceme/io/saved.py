"""The tensors of decoder layers as the files of a checkpoint hold them, each in its own dtype."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from replaceme.architectures import Architecture
from replaceme.errors import InputError
from replaceme.io import tensorfile
from replaceme.io.contents import Stored, stored_tensors
from replaceme.io.layers import bring
from replaceme.io.tensorfile import FLOATS

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from replaceme.edit import Edit


@dataclass(frozen=True)
class SavedLayers:
    """A checkpoint to be made of a folder, before it is edited.

    A config may name one dtype and the files hold another, and files may mix them; what is saved
    follows the files, unless they are cast.

    Attributes:
        entries: (layer, tensor) → its file and its place there.
        outside: the same of tensors outside the layers, by name.
        cast: the dtype that floating-point tensors are cast to; ``None`` keeps that of each.
    """

    architecture: Architecture
    entries: dict[tuple[int, str], Stored]
    outside: dict[str, Stored]
    cast: str | None = None

    @classmethod
    def of(cls, folder: Path, architecture: Architecture, cast: str | None = None) -> SavedLayers:
        """The tensors of a folder; reads headers alone.

        Raises:
            InputError: a file is damaged.
        """
        entries: dict[tuple[int, str], Stored] = {}
        outside: dict[str, Stored] = {}
        for name, stored in stored_tensors(folder).items():
            if stored.entry.dtype not in FLOATS:
                continue
            if place := architecture.split(name):
                entries[place[1:]] = stored
            else:
                outside[name] = stored
        return cls(architecture, entries, outside, cast)

    def dtype(self, layer: int, tensor: str) -> str | None:
        """The dtype that a tensor, or all that it is made of, will be saved in; ``None`` where the
        files lack it, or hold its parts in several."""
        dtypes = self._dtypes.get((layer, tensor), set())
        return next(iter(dtypes)) if len(dtypes) == 1 else None

    @cached_property
    def _dtypes(self) -> dict[tuple[int, str], set[str]]:
        """Those that each parameter of a layer will be saved in."""
        found: dict[tuple[int, str], set[str]] = {}
        for (layer, tensor), stored in self.entries.items():
            part = self.architecture.part(layer, tensor)
            names = {tensor, part.parameter} if part else {tensor}
            for name in names:
                found.setdefault((layer, name), set()).add(self.cast or FLOATS[stored.entry.dtype][0])
        return found

    def outside_dtype(self, name: str) -> str | None:
        """The same of a tensor outside the layers."""
        found = self.outside.get(name)
        return (self.cast or FLOATS[found.entry.dtype][0]) if found else None

    def obstacle(self, dtype: str) -> str | None:
        """Why a model loaded in ``dtype`` cannot be given the values of the checkpoint, or ``None``."""
        if self.other_cast and dtype not in (self.cast, "float32"):
            return f"its files are cast to {self.cast}, and that is computed in {dtype}"
        return None

    def unedited(self, layer: int, tensor: str, parameter: nn.Parameter) -> Tensor:
        """What will be saved of a parameter of a loaded model where no edit changes it.

        Read from the files, for the model may have been loaded in a narrower dtype; where the model
        has merged several of their tensors into one, taken from the model.

        Raises:
            InputError: the merged tensors have several dtypes, or one that the model's is too narrow
                for.
        """
        import torch

        if (layer, tensor) in self.entries:
            stored = self.entries[layer, tensor]
            with stored.file.open("rb") as data:
                values = tensorfile.tensor_of(stored.entry, data)
            if values.shape == parameter.shape:
                values = values.to(parameter.device)
                return values.to(getattr(torch, self.cast)) if self.cast else values
        dtypes = {getattr(torch, dtype) for dtype in self._dtypes.get((layer, tensor), ())}
        if len(dtypes) != 1 or torch.promote_types(parameter.dtype, *dtypes) != parameter.dtype:
            raise InputError(
                f"{tensor} of layer {layer} is made of tensors in {' and '.join(map(str, dtypes))}, and "
                f"loaded as {parameter.dtype}"
            )
        return parameter.data.to(*dtypes)

    def rounded(self, edit: Edit) -> Edit:
        """The edit with its new weights in the dtype that each will be saved in."""
        from replaceme.edit import Edit

        weights = {name: _round(values, self.dtype(*name)) for name, values in edit.weights.items()}
        outside = {
            name: _round(values, self.outside_dtype(name)) for name, values in edit.outside.items()
        }
        return Edit(edit.blocks, edit.transforms, weights, outside)

    def keeps_values(self, model: PreTrainedModel, edit: Edit) -> bool:
        """Whether saving rounds none of the weights that an edit changes in a loaded model."""
        from replaceme.edit import list_changed

        return not edit.outside and all(
            self.dtype(layer, tensor) == str(parameter.dtype).removeprefix("torch.")
            for layer, tensor, parameter in list_changed(model, self.architecture, edit)
        )

    def with_values(self, model: PreTrainedModel, edit: Edit) -> Edit:
        """The edit with every weight that it changes in a loaded model as it will be saved.

        Raises:
            InputError: one is made of tensors of several dtypes.
        """
        from replaceme.edit import Edit, list_changed

        weights = {}
        layers = self.architecture.decoder_layers(model)
        for layer, tensor, parameter in list_changed(model, self.architecture, edit):
            if (layer, tensor) not in self.entries:
                bring(layers[layer])
            before = self.unedited(layer, tensor, parameter)
            weights[layer, tensor] = edit.changed(self.architecture, layer, tensor, before)
        return Edit(edit.blocks, {}, weights, self.rounded(edit).outside)

    @property
    def other_cast(self) -> str | None:
        """The dtype that tensors are cast to which the files hold in another; ``None``: none are."""
        held = {FLOATS[stored.entry.dtype][0] for stored in self.entries.values()}
        return self.cast if self.cast and held != {self.cast} else None


def _round(values: Tensor, dtype: str | None) -> Tensor:
    import torch

    return values.to(getattr(torch, dtype)) if dtype else values
