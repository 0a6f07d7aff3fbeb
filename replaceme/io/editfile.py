"""What a solver found as a safetensors file: ``prune --transform-only`` writes, ``apply`` reads it.

Tensors are named ``transform.LAYER`` ([d, d] float64, x → x T), ``weight.LAYER.TENSOR`` (new values) and
``outside.TENSOR`` (those outside the layers); the metadata holds the provenance.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from replaceme.calibration import PICKLES
from replaceme.errors import InputError, OutputError
from replaceme.io.yaml_file import shown
from replaceme.provenance import Provenance
from replaceme.selection import Block

if TYPE_CHECKING:
    from replaceme.edit import Edit

METADATA = "replaceme"


def check_edit_file(path: Path, overwrite: bool) -> None:
    """Refuse a path that an edit cannot be written to.

    Raises:
        InputError: its name does not end in .safetensors, or it exists and may not be replaced.
    """
    if path.suffix != ".safetensors" or path.is_dir():
        raise InputError(
            f"{path} cannot hold what was fitted: it is saved as one file, and its name ends in "
            f".safetensors."
        )
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; name another file, or use --overwrite.")


def save_edit(path: Path, edit: Edit, provenance: Provenance) -> None:
    """Write an edit with where it comes from.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {f"transform.{layer}": values for layer, values in edit.transforms.items()}
    tensors |= {f"weight.{layer}.{name}": values for (layer, name), values in edit.weights.items()}
    tensors |= {f"outside.{name}": values for name, values in edit.outside.items()}
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: values.cpu().contiguous() for name, values in tensors.items()},
            part,
            metadata={METADATA: provenance.model_dump_json()},
        )
        part.chmod(0o644)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} cannot be written: {reason}.") from error
    finally:
        if part.exists():
            part.unlink()


def load_edit(path: Path) -> tuple[Edit, Provenance]:
    """An edit from its file.

    Raises:
        InputError: there is no such file, or it is something else.
    """
    from safetensors import SafetensorError, safe_open

    from replaceme.edit import Edit

    if path.suffix in PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run code when it is read; give the .safetensors file that "
            f"'prune --transform-only' writes."
        )
    try:
        with safe_open(path, framework="pt") as file:
            provenance = Provenance.model_validate_json((file.metadata() or {})[METADATA])
            provenance.card()  # which needs more of it than its types say
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        transforms, weights, outside = {}, {}, {}
        for name, values in tensors.items():
            if not values.is_floating_point():
                raise InputError(f"{path}: the tensor {shown(name)} does not hold real numbers.")
            kind, layer, *rest = name.split(".")
            if kind == "outside":
                outside[name.partition(".")[2]] = values
            elif kind == "transform":
                transforms[int(layer)] = values
            elif kind == "weight":
                weights[int(layer), ".".join(rest)] = values
            else:
                raise ValueError(name)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except InputError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError):
        raise InputError(
            f"{path} is not a file that 'prune --transform-only' wrote; give one of those."
        ) from None
    blocks = tuple(Block(*block) for block in provenance.blocks)
    return Edit(blocks, transforms, weights, outside), provenance
