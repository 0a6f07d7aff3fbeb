"""Block + transform → a pruned model, in memory or on disk.

Both ways remove the layers of the block and merge T into the output projection of the MLP before it.
On disk nothing is loaded: unchanged tensors are copied as bytes from file to file, so the peak memory
is one tensor, whatever the model.
"""

from __future__ import annotations

import json
import mmap
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaceme import tensorfile
from replaceme.architectures import Architecture, architecture_of, pruned_config
from replaceme.errors import InputError, OutputError
from replaceme.models import INDEX, check_folder, read_config, weight_files
from replaceme.selection import check_block
from replaceme.tensorfile import FLOATS, Entry, Piece

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from replaceme.selection import Block

NOT_CARRIED = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")
PROVENANCE = "replaceme.json"


def merged(weight: Tensor, transform: Tensor) -> Tensor:
    """Tᵀ W, so that the projection's output x Wᵀ becomes x Wᵀ T.

    Args:
        weight: [d, d_ff], a ``nn.Linear`` weight (out, in).
        transform: [d, d] float64.

    Returns:
        [d, d_ff] in the dtype of ``weight``, computed in float64 and rounded once.
    """
    return (transform.to(weight.device).mT @ weight.to(transform.dtype)).to(weight.dtype)


def prune_model(
    model: PreTrainedModel, architecture: Architecture, block: Block, transform: Tensor | None
) -> None:
    """Remove ``block`` from a loaded model, in place, and merge ``transform`` before it.

    Layer indices of the attention modules (``layer_idx``, the slots of the KV cache) and per-layer
    lists of the config follow.
    """
    import torch

    layers = architecture.decoder_layers(model)
    if transform is not None:
        weight = architecture.mlp_output_of(layers[block.start - 1]).weight
        with torch.no_grad():
            weight.copy_(merged(weight, transform))  # type: ignore[arg-type, operator]
    del layers[block.start : block.end]
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]
    config = model.config.to_dict()
    for key, value in pruned_config(config, block).items():
        if value != config[key]:
            setattr(model.config, key, value)


def write_checkpoint(
    source: Path,
    out: Path,
    block: Block | None,
    transform: Tensor | None,
    provenance: dict[str, Any],
    *,
    dtype: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the pruned checkpoint of the folder ``source`` to the folder ``out``.

    Tokenizer, chat template and generation config are carried over; ``replaceme.json`` holds
    ``provenance``. The folder appears whole or not at all.

    Args:
        block: layers to remove; ``None`` copies all of them.
        transform: [d, d] float64, or ``None`` for the identity.
        dtype: cast floating-point tensors to this; ``None`` keeps the checkpoint's.
        overwrite: replace ``out`` if it exists and is not empty.

    Raises:
        InputError: ``out`` is not empty, or ``source`` is not a supported checkpoint.
        OutputError: ``out`` cannot be written.
    """
    check_free(out, overwrite)
    check_folder(source, str(source))
    config = read_config(source)
    architecture = architecture_of(config, str(source))
    if block is not None:
        check_block(block, config["num_hidden_layers"])
    edit = _Edit(architecture, block, transform, dtype)
    new_config = pruned_config(config, block) if block else dict(config)
    if dtype:
        new_config["dtype"] = dtype
        new_config.pop("torch_dtype", None)
    with _whole_folder(out) as part:
        for file in source.iterdir():
            if file.is_file() and not file.name.endswith(NOT_CARRIED):
                shutil.copy(file, part / file.name)
        _write_json(part / "config.json", new_config)
        _write_json(part / PROVENANCE, provenance)
        _write_weights(source, part, edit)


def check_free(out: Path, overwrite: bool) -> None:
    """Refuse an output folder that exists and is not empty, unless it may be replaced."""
    if out.exists() and not overwrite and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty; name another folder, or use --overwrite.")


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its place when the context ends well."""
    part = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
        part.chmod(0o755)
        yield part
        if out.exists():
            shutil.rmtree(out)
        part.replace(out)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


@dataclass(frozen=True)
class _Edit:
    """What happens to each tensor of a checkpoint, told from its name."""

    architecture: Architecture
    block: Block | None
    transform: Tensor | None
    dtype: str | None

    def new_name(self, name: str) -> str | None:
        """The tensor's name in the pruned checkpoint; ``None`` if it is dropped."""
        prefix = f"{self.architecture.layers}."
        if self.block is None or not name.startswith(prefix):
            return name
        layer, _, rest = name.removeprefix(prefix).partition(".")
        index = int(layer)
        if self.block.start <= index < self.block.end:
            return None
        return f"{prefix}{index - self.block.size if index >= self.block.end else index}.{rest}"

    def piece(self, entry: Entry, data: mmap.mmap) -> Piece | None:
        """The tensor as it stands in the pruned checkpoint; ``None`` if it is dropped."""
        name = self.new_name(entry.name)
        if name is None:
            return None
        merge = self.transform is not None and entry.name == self.merge_target
        if entry.dtype not in FLOATS or not (merge or self.dtype):
            return tensorfile.copied(entry, name, data)
        dtype = self.dtype or FLOATS[entry.dtype][0]
        return tensorfile.changed(entry, name, data, partial(self._change, merge, dtype), dtype)

    @property
    def merge_target(self) -> str | None:
        return self.block and self.architecture.mlp_output_weight(self.block.start - 1)

    def _change(self, merge: bool, dtype: str, weight: Tensor) -> Tensor:
        import torch

        weight = weight.to(getattr(torch, dtype))
        return merged(weight, self.transform) if merge else weight  # type: ignore[arg-type]


def _write_weights(source: Path, out: Path, edit: _Edit) -> None:
    shards = weight_files(source)
    headers = {shard: tensorfile.read_header(shard) for shard in shards}
    names = {entry.name for entries, _ in headers.values() for entry in entries}
    if (target := edit.merge_target) and target not in names:
        raise InputError(f"{source}: the weights have no tensor {target}.")
    weight_map: dict[str, str] = {}
    total = 0
    for shard, (entries, metadata) in headers.items():
        with tensorfile.opened(shard) as data:
            pieces = [piece for entry in entries if (piece := edit.piece(entry, data))]
            if pieces:
                tensorfile.write(out / shard.name, pieces, metadata)
        weight_map |= {piece.name: shard.name for piece in pieces}
        total += sum(piece.size for piece in pieces)
    if (source / INDEX).is_file():
        _write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
