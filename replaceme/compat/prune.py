"""What the published commands do: choose blocks, fit, and write the model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaceme.calibration import Batches, CalibrationText, check_data, padding_token
from replaceme.checkpoint import Checkpoint
from replaceme.compat.data import read_published_text
from replaceme.compat.distances import DISTANCES, TABLE, measure_distances, read_distances, write_table
from replaceme.errors import InputError, OutputError
from replaceme.io import contents, loading
from replaceme.io.editfile import check_edit_file, save_edit
from replaceme.io.loading import enough_memory
from replaceme.io.outfolder import check_apart, check_free
from replaceme.summary import tell_choice, tell_warning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from replaceme.compat.config import Method, SeedConfig
    from replaceme.edit import Edit
    from replaceme.reload import Expected
    from replaceme.session import Variant

Say = Callable[[str], None]


def open_source(config: SeedConfig) -> Checkpoint:
    """The checkpoint that a YAML names, downloaded or converted where necessary.

    Raises:
        InputError: it cannot be had, is not supported, or has too few layers.
    """
    token = config.token.get_secret_value() if config.token else None
    source = Checkpoint.open(config.model_path, token=token)
    if config.layers_to_skip >= source.layers:
        raise InputError(
            f"layers_to_skip: {config.layers_to_skip} layers cannot be removed from a model of "
            f"{source.layers}; allowed are 1 to {source.layers - 1}."
        )
    return source


@dataclass(frozen=True)
class Loaded:
    """The intact model and its calibration tokens, as the statistics are taken.

    Attributes:
        numbers: what its weights are held in.
    """

    model: PreTrainedModel
    batches: Batches
    numbers: str

    @property
    def in_four_bits(self) -> bool:
        return self.numbers.startswith("nf4")


def load(config: SeedConfig, source: Checkpoint, say: Say) -> tuple[Loaded, CalibrationText]:
    """In float32, or, with ``use_4bit``, as the published code does: matrices in 4 bits, the rest in
    float16."""
    four_bits = config.use_4bit and loading.has_four_bits()
    if config.use_4bit and not four_bits:
        say(
            "use_4bit: bitsandbytes is not installed (pip install 'replaceme[bnb]'), and the statistics "
            "are those of the model in bfloat16."
        )
    other = "bfloat16" if config.use_4bit else "float32"
    dtype = "float16" if four_bits else other
    model, tokenizer = source.load(dtype, _choose_device(), four_bits)
    if four_bits and (whole := loading.left_in_half_precision(model)):
        say(
            f"use_4bit: {', '.join(whole)} stay in float16, for transformers quantises plain linear "
            f"modules alone."
        )
    text = read_published_text(config, tokenizer)
    batches = Batches(text.sequences, config.batch_size, pad=padding_token(tokenizer))
    numbers = f"nf4 (bitsandbytes {metadata.version('bitsandbytes')})" if four_bits else dtype
    return Loaded(model, batches, numbers), text


def _choose_device() -> str:
    import torch

    return "auto" if torch.cuda.is_available() else "cpu"


@enough_memory()
def analyse(config: SeedConfig, say: Say) -> str:
    """Measure the distances, write them and their table, and say which block is closest.

    Raises:
        InputError: a value does not fit the model, or model or data cannot be read.
        OutputError: an output cannot be written.
    """
    check_data(config.data)
    source = open_source(config)
    loaded, _ = load(config, source, say)
    distances = measure_distances(config, loaded.model, loaded.batches)
    write_table(distances, config.layers_to_skip)
    least = min(distances)
    start = distances.index(least) + 1
    return (
        f"Layers [{start}, {start + config.layers_to_skip}) (0-based, the end stays) of {source.layers} "
        f"are the closest, at distance {least:.4f}.\n"
        f"Wrote {config.distances_file or DISTANCES} and {TABLE}."
    )


@enough_memory()
def prune(config: SeedConfig, method: Method, overwrite: bool, say: Say) -> tuple[Path, str]:
    """Choose blocks, fit, and write the model's folder, the distances and perhaps the transform.

    Args:
        say: takes a sentence about something that is not as the file may make one think.

    Returns:
        The folder, and what was done, for a person to read.

    Raises:
        InputError: a value does not fit the model, or model or data cannot be read.
        OutputError: an output cannot be written.
    """
    check_data(config.data)
    source = open_source(config)
    config.make_solver(method, 1).check(source.architecture)
    if config.save_path is not None:
        _check_outputs(config, method, source, config.folder(method, ()), overwrite)
    dtype = None if method == "uidl" else "bfloat16"
    folder, variant, expected = _fit(config, method, source, dtype, overwrite, say)
    edit, provenance = variant.fit.edit, source.trace(variant, dtype)
    if expected:
        confirm: Any = partial(source.confirm, expected=expected)
    else:
        confirm = partial(source.confirm_edit, edit=edit, dtype=dtype)
    source.write(edit, folder, provenance, dtype=dtype, overwrite=overwrite, confirm=confirm)
    lines = [*tell_choice(variant, source.layers), *tell_warning(variant)]
    lines += [*contents.left_line(source.folder), f"Wrote {folder}."]
    if config.save_transform_only and edit.transforms:
        file = _transform_file(folder)
        save_edit(file, edit, provenance)
        lines.append(f"Wrote {file}.")
    return folder, "\n".join(lines)


def _fit(
    config: SeedConfig,
    method: Method,
    source: Checkpoint,
    dtype: str | None,
    overwrite: bool,
    say: Say,
) -> tuple[Path, Variant, Expected | None]:
    """The output folder, the variant, and what its checkpoint is to predict.

    The latter is unknown where the model was loaded in 4 bits, which no edit fits. The loaded model is
    gone when this returns.
    """
    from replaceme.calibrating import HELD_BACK_TOKENS, calibrate
    from replaceme.compat.reference import published_choice
    from replaceme.session import Session

    layers, size, compat = source.layers, config.layers_to_skip, config.compat is not None
    distances = read_distances(config, layers, say)
    loaded, text = load(config, source, say)
    if distances is None:
        distances = measure_distances(config, loaded.model, loaded.batches)
    first = None if compat else config.min_distance_layer
    choice = published_choice(distances, size, config.num_A, config.merge_consecutive, first or 1)
    if not choice.blocks:
        raise InputError(
            f"min_distance_layer: no {size} layers can be removed from layer {first} on in a model of "
            f"{layers}; allowed are 1 to {layers - size}."
        )
    folder = config.folder(method, choice.blocks)
    _check_outputs(config, method, source, folder, overwrite)
    solver = config.make_solver(method, len(text.sequences) * config.max_length)
    calibration = calibrate(
        loaded.model,
        loaded.batches,
        blocks=[choice.blocks],
        solvers=[solver],
        held_back_tokens=0 if loaded.in_four_bits else HELD_BACK_TOKENS,
        compat_reference=compat,
    )
    session = Session(calibration, text)
    with reloading(source, folder.parent, loaded) as reload:
        variant = session.fit(solver, choice=choice, reload=reload)
    expected = None if loaded.in_four_bits else source.expect(session, variant, dtype)
    said = variant.calibration | {"model_in": loaded.numbers}
    return folder, replace(variant, calibration=said), expected


def _transform_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}_transform.safetensors")


def _check_outputs(
    config: SeedConfig, method: Method, source: Checkpoint, folder: Path, overwrite: bool
) -> None:
    """Refuse what may not be written, before the work that it would hold."""
    check_free(folder, overwrite)
    check_apart(source.folder, folder)
    if config.save_transform_only and method != "uidl":
        check_edit_file(_transform_file(folder), overwrite)


@contextmanager
def reloading(
    source: Checkpoint, beside: Path, loaded: Loaded
) -> Iterator[Callable[[Edit], PreTrainedModel] | None]:
    """How a 4-bit model is pruned block by block: each time saved in bfloat16, and loaded in 4 bits."""
    if not loaded.in_four_bits:
        yield None
        return
    try:
        beside.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=beside, prefix=".pruned-")
    except OSError as error:
        raise OutputError(f"{beside} cannot be written: {error.strerror}.") from error
    with scratch as folder:
        saved = [source]

        def reload(edit: Edit) -> Any:
            out = Path(folder) / str(len(saved))
            saved[-1].write(edit, out, None, dtype="bfloat16")
            saved.append(Checkpoint.read(str(out), out))
            return saved[-1].load("float16", _choose_device(), four_bits=True)[0]

        yield reload
