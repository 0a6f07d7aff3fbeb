"""Edit → a pruned checkpoint on disk.

Nothing is loaded: unchanged tensors are copied as bytes from file to file, so the peak memory is one
tensor, whatever the model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from replaceme.architectures import (
    EXTRA_LAYERS,
    Architecture,
    architecture_of,
    layer_count,
    pruned_config,
)
from replaceme.edit import Edit, keep_parts
from replaceme.errors import InputError
from replaceme.io import tensorfile
from replaceme.io.contents import INDEX, NAMED, WEIGHTS, Stored, carried_files
from replaceme.io.matching import match, refuse_incomplete
from replaceme.io.models import check_folder, encode_floats, read_config
from replaceme.io.outfolder import PROVENANCE, check_apart, check_free, whole_folder
from replaceme.io.tensorfile import FLOATS, Entry, Piece
from replaceme.selection import check_blocks

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.provenance import Provenance

CARD = "README.md"


def write_checkpoint(
    source: Path,
    out: Path,
    edit: Edit,
    provenance: Provenance | None,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    confirm: Callable[[Path], object] | None = None,
) -> None:
    """Write the checkpoint of the folder ``source``, edited, to the folder ``out``.

    What :func:`replaceme.io.contents.carried_files` names is carried over, the rest left behind.
    ``replaceme.json`` holds ``provenance``, and the model card tells it; without one the source's card
    is kept. The folder appears whole or not at all.

    Args:
        edit: what changes; ``Edit()`` copies the model.
        dtype: cast floating-point tensors to this; ``None`` keeps the checkpoint's.
        overwrite: replace ``out`` if it holds a checkpoint.
        trust_remote_code: run code that comes with the model, to know which tensors are the model.
        confirm: called with the folder before it gets its name; where it raises, nothing is left.

    Raises:
        InputError: ``out`` may not be written, or ``source`` is not a supported checkpoint, or not all
            of one.
        OutputError: ``out`` cannot be written.
    """
    check_free(out, overwrite)
    check_apart(source, out)
    check_folder(source, str(source))
    config = read_config(source)
    architecture = architecture_of(config, str(source), source, trust_remote_code)
    layers = layer_count(config)
    found = match(source, trust_remote_code)
    refuse_incomplete(str(source), found.missing, found.mismatched)
    stored = found.own
    check_blocks(edit.blocks, layers)
    kept = edit.kept(layers)
    files = _FileEdit(architecture, edit, layers, kept, dtype)
    files.check([tensor.entry for tensor in stored.values()], source)
    new_config = pruned_config(config, kept) if edit.blocks else dict(config)
    new_config.pop(NAMED, None)
    new_config |= {key: 0 for key in EXTRA_LAYERS if config.get(key)}
    if found.untied:
        new_config["tie_word_embeddings"] = False
    if dtype:
        new_config["dtype"] = dtype
        new_config.pop("torch_dtype", None)
    with whole_folder(out) as part:
        for file in carried_files(source):
            (part / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file, part / file)
        _write_json(part / "config.json", encode_floats(new_config))
        if provenance is not None:
            (part / PROVENANCE).write_text(provenance.model_dump_json(indent=2) + "\n", "utf-8")
            (part / CARD).write_text(provenance.card(), "utf-8")
        _write_weights([*stored.values()], part, files)
        if confirm is not None:
            confirm(part)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


@dataclass(frozen=True)
class _FileEdit:
    """What happens to each tensor of a checkpoint's files, told from its name."""

    architecture: Architecture
    edit: Edit
    layers: int
    kept: list[int]
    dtype: str | None

    def check(self, entries: list[Entry], source: Path) -> None:
        """Refuse files that lack a layer, or whose tensors cannot be changed as the edit says."""
        inside = {part[1:]: e for e in entries if (part := self.architecture.split(e.name))}
        if missing := {*range(self.layers)} - {layer for layer, _ in inside}:
            raise InputError(
                f"{source}: the weights have no tensor {self.architecture.layers}.{min(missing)}.*"
            )
        kind = self.architecture.kind
        merges = {layer for layer, rest in inside if layer < self.layers and kind(layer).merges(rest)}
        lacking = [
            f"{' and '.join(kind(i).adds if 0 <= i < self.layers else ()) or 'output'} of layer {i}"
            for i in self.edit.transforms
            if i not in merges
        ]
        parts = {(i, p.parameter) for i, rest in inside if (p := self.architecture.part(i, rest))}
        found = {*inside, *parts}
        lacking += [f"{rest} of layer {i}" for i, rest in self.edit.weights if (i, rest) not in found]
        shapes = {entry.name: entry.shape for entry in entries}
        lacking += [name for name in self.edit.outside if name not in shapes]
        if lacking:
            raise InputError(f"{source}: the weights have no tensor {lacking[0]}.")
        for name, values in self.edit.outside.items():
            if list(values.shape) != shapes[name]:
                raise InputError(
                    f"{source}: {name} has the shape {shapes[name]}, and its new values have "
                    f"{list(values.shape)}."
                )
        for (layer, rest), entry in inside.items():
            self._check_shape(layer, rest, entry.shape, source)
            if entry.dtype not in FLOATS and self.edit.changes(self.architecture, layer, rest):
                raise InputError(
                    f"{source}: {entry.name} is {entry.dtype}, and only tensors of the dtypes "
                    f"{', '.join(FLOATS)} can be changed."
                )

    def _check_shape(self, layer: int, rest: str, shape: list[int], source: Path) -> None:
        where = f"{source}: {rest} of layer {layer} has the shape {shape}"
        values = self.edit.new_values(self.architecture, layer, rest)
        if values is not None and list(values.shape) != shape:
            raise InputError(f"{where}, and its new values have {list(values.shape)}.")
        transform = self.edit.transforms.get(layer)
        if transform is None or not self.architecture.kind(layer).merges(rest):
            return
        axis = self.architecture.kind(layer).merge_axis(rest)
        if shape[-1 if axis is None else axis] != len(transform):
            raise InputError(f"{where}, and its transform {list(transform.shape)}.")
        if axis is None and bool((transform - transform.diagonal().diag()).any()):
            raise InputError(
                f"{source}: {rest} is a norm, and only a diagonal transform can be merged into it."
            )

    def keeps(self, entry: Entry) -> bool:
        """Whether the pruned checkpoint has the tensor."""
        place = self.architecture.split(entry.name)
        return place is None or place[1] in self.kept

    def piece(self, entry: Entry, data: BinaryIO) -> Piece:
        """A tensor that stays, as it stands in the pruned checkpoint."""
        place = self.architecture.split(entry.name)
        if place is None and entry.name in self.architecture.along:
            return self._shorten(entry, data)
        if place is None and entry.name in self.edit.outside:
            dtype = self.dtype or FLOATS[entry.dtype][0]
            return tensorfile.changed(entry, entry.name, data, partial(self._replace, entry), dtype)
        if place is None:
            return self._piece(entry, entry.name, data, None)
        prefix, layer, rest = place
        name = f"{prefix}{self.kept.index(layer)}.{rest}"
        changes = self.edit.changes(self.architecture, layer, rest)
        return self._piece(entry, name, data, (layer, rest) if changes else None)

    def _shorten(self, entry: Entry, data: BinaryIO) -> Piece:
        """A tensor outside the layers with the parts of those that stay."""
        axis = self.architecture.along[entry.name]
        shape = list(entry.shape)
        shape[axis] = shape[axis] // self.layers * len(self.kept)
        dtype = self.dtype or FLOATS[entry.dtype][0]

        def change(values: Tensor) -> Tensor:
            import torch

            return keep_parts(values, axis, self.kept, self.layers).to(getattr(torch, dtype))

        return tensorfile.changed(entry, entry.name, data, change, dtype, shape)

    def _piece(self, entry: Entry, name: str, data: BinaryIO, changed: tuple[int, str] | None) -> Piece:
        if entry.dtype not in FLOATS or not (changed or self.dtype):
            return tensorfile.copied(entry, name, data)
        dtype = self.dtype or FLOATS[entry.dtype][0]
        return tensorfile.changed(entry, name, data, partial(self._change, changed, dtype), dtype)

    def _replace(self, entry: Entry, weight: Tensor) -> Tensor:
        import torch

        dtype = getattr(torch, self.dtype or FLOATS[entry.dtype][0])
        return self.edit.outside[entry.name].to(weight.device, dtype).reshape(weight.shape)

    def _change(self, changed: tuple[int, str] | None, dtype: str, weight: Tensor) -> Tensor:
        import torch

        weight = weight.to(getattr(torch, dtype))
        return self.edit.changed(self.architecture, *changed, weight) if changed else weight


def _write_weights(stored: list[Stored], out: Path, files: _FileEdit) -> None:
    """Write the tensors that stay, in as many files as they came from, and the index of several."""
    shards: dict[Path, list[Entry]] = {}
    for tensor in stored:
        if files.keeps(tensor.entry):
            shards.setdefault(tensor.file, []).append(tensor.entry)
    weight_map: dict[str, str] = {}
    total = 0
    for number, (shard, entries) in enumerate(shards.items(), 1):
        name = WEIGHTS if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        with shard.open("rb") as data:
            pieces = [files.piece(entry, data) for entry in entries]
            tensorfile.write(out / name, pieces, tensorfile.read_header(shard)[1])
        weight_map |= {piece.name: name for piece in pieces}
        total += sum(piece.size for piece in pieces)
    if len(shards) > 1:
        _write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
