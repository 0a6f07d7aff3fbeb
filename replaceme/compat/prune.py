"""What the published commands do: choose blocks, fit, and write the model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from replaceme.calibration import Batches, padding_token
from replaceme.chat import USUAL_DAY
from replaceme.compat.data import calibration_sequences
from replaceme.compat.distances import DISTANCES, TABLE, measure_distances, read_distances, write_table
from replaceme.errors import InputError, OutputError
from replaceme.io.loading import enough_memory
from replaceme.io.outfolder import check_apart, check_free

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from replaceme.architectures import Architecture
    from replaceme.compat.config import Method, SeedConfig
    from replaceme.edit import Edit

Say = Callable[[str], None]


class Source(NamedTuple):
    """The checkpoint that a YAML names; nothing of it is loaded."""

    folder: Path
    architecture: Architecture
    layers: int


def find_source(config: SeedConfig) -> Source:
    """The checkpoint, downloaded or converted where necessary.

    Raises:
        InputError: it cannot be had, is not supported, or has too few layers.
    """
    from replaceme.architectures import architecture_of, layer_count
    from replaceme.io import contents, matching, models

    token = config.token.get_secret_value() if config.token else None
    folder = models.locate(config.model_path, token=token)
    settings = models.read_config(folder)
    where = f"model {config.model_path!r}"
    architecture = architecture_of(settings, where, contents.tensor_names(folder))
    matching.check_complete(folder, config.model_path)
    layers, size = layer_count(settings), config.layers_to_skip
    if size >= layers:
        raise InputError(
            f"layers_to_skip: {size} layers cannot be removed from a model of {layers}; allowed are 1 "
            f"to {layers - 1}."
        )
    return Source(folder, architecture, layers)


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


def load(config: SeedConfig, source: Source, say: Say) -> Loaded:
    """In float32, or, with ``use_4bit``, as the published code does: matrices in 4 bits, the rest in
    float16."""
    from importlib import metadata

    from replaceme.io import loading

    four_bits = config.use_4bit and loading.has_four_bits()
    if config.use_4bit and not four_bits:
        say(
            "use_4bit: bitsandbytes is not installed (pip install 'replaceme[bnb]'), and the statistics "
            "are those of the model in bfloat16."
        )
    other = "bfloat16" if config.use_4bit else "float32"
    dtype = "float16" if four_bits else other
    model, tokenizer = loading.load(source.folder, dtype, _device(), four_bits=four_bits)
    if four_bits and (whole := loading.left_in_half_precision(model)):
        say(
            f"use_4bit: {', '.join(whole)} stay in float16, for transformers quantises plain linear "
            f"modules alone."
        )
    batches = Batches(
        calibration_sequences(config, tokenizer), config.batch_size, pad=padding_token(tokenizer)
    )
    numbers = f"nf4 (bitsandbytes {metadata.version('bitsandbytes')})" if four_bits else dtype
    return Loaded(model, batches, numbers)


def _device() -> str:
    import torch

    return "auto" if torch.cuda.is_available() else "cpu"


@enough_memory()
def analyse(config: SeedConfig, say: Say) -> str:
    """Measure the distances, write them and their table, and say which block is closest.

    Raises:
        InputError: a value does not fit the model, or model or data cannot be read.
        OutputError: an output cannot be written.
    """
    config.data.check()
    source = find_source(config)
    loaded = load(config, source, say)
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
    config.data.check()
    from replaceme import Provenance, calibrate, fit, write_checkpoint
    from replaceme.compat.reference import published_choice
    from replaceme.io import contents, models
    from replaceme.io.editfile import save_edit
    from replaceme.io.saved import SavedLayers
    from replaceme.provenance import choice_line, listed
    from replaceme.pruning import HELD_BACK_TOKENS
    from replaceme.reload import Expected, reloaded_loss

    source = find_source(config)
    config.make_solver(method, 1).check(source.architecture)
    layers, size = source.layers, config.layers_to_skip
    if config.save_path is not None:
        _check_outputs(config, method, source.folder, config.folder(method, ()), overwrite)
    distances = read_distances(config, layers, say)
    loaded = load(config, source, say)
    if distances is None:
        distances = measure_distances(config, loaded.model, loaded.batches)
    compat = config.compat is not None
    first = None if compat else config.min_distance_layer
    choice = published_choice(distances, size, config.num_A, config.merge_consecutive, first or 1)
    blocks = choice.blocks
    if not blocks:
        raise InputError(
            f"min_distance_layer: no {size} layers can be removed from layer {first} on in a model of "
            f"{layers}; allowed are 1 to {layers - size}."
        )
    folder = config.folder(method, blocks)
    _check_outputs(config, method, source.folder, folder, overwrite)
    solver = config.make_solver(method, len(loaded.batches.sequences) * config.max_length)
    calibration = calibrate(
        loaded.model,
        loaded.batches,
        blocks=[blocks],
        solvers=[solver],
        held_back_tokens=0 if loaded.in_four_bits else HELD_BACK_TOKENS,  # no edit fits 4-bit weights
        compat_reference=compat,
    )
    with reloading(source.folder, folder.parent, loaded) as reload:
        found = fit(solver, calibration, blocks, reload=reload)
    dtype = None if method == "uidl" else "bfloat16"
    provenance = Provenance.of(
        config.model_path,
        models.fingerprint(config.model_path, folder=source.folder),
        solver,
        _calibration_facts(config, loaded) | {"tokens": calibration.tokens},
        found,
        "angular",
        choice,
        dtype,
    )
    confirm = None
    if not loaded.in_four_bits:
        saved = SavedLayers.of(source.folder, source.architecture, dtype)
        confirm = partial(reloaded_loss, expected=Expected.of(calibration, found, saved))
    write_checkpoint(
        source.folder,
        folder,
        found.edit,
        provenance,
        dtype=dtype,
        overwrite=overwrite,
        confirm=confirm,
    )
    lines = [f"Removed layers {listed(blocks)} (0-based, the end stays) of {layers}."]
    lines.append(choice_line("angular", choice))
    lines += [f"Warning: {found.warning}."] if found.warning else []
    lines += [*contents.left_line(source.folder), f"Wrote {folder}."]
    if config.save_transform_only and found.edit.transforms:
        file = _transform_file(folder)
        save_edit(file, found.edit, provenance)
        lines.append(f"Wrote {file}.")
    return folder, "\n".join(lines)


def _calibration_facts(config: SeedConfig, loaded: Loaded) -> dict[str, Any]:
    return config.data.model_dump(exclude={"seed"}) | {
        "samples": len(loaded.batches.sequences),
        "date": USUAL_DAY.isoformat(),
        "fingerprint": config.data.fingerprint(),
        "model_in": loaded.numbers,
    }


def _transform_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}_transform.safetensors")


def _check_outputs(
    config: SeedConfig, method: Method, source: Path, folder: Path, overwrite: bool
) -> None:
    """Refuse what may not be written, before the work that it would hold."""
    from replaceme.io.editfile import check_edit_file

    check_free(folder, overwrite)
    check_apart(source, folder)
    if config.save_transform_only and method != "uidl":
        check_edit_file(_transform_file(folder), overwrite)


@contextmanager
def reloading(
    source: Path, beside: Path, loaded: Loaded
) -> Iterator[Callable[[Edit], PreTrainedModel] | None]:
    """How a 4-bit model is pruned block by block: each time saved in bfloat16, and loaded in 4 bits."""
    if not loaded.in_four_bits:
        yield None
        return
    from replaceme import write_checkpoint
    from replaceme.io import loading

    try:
        beside.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=beside, prefix=".pruned-")
    except OSError as error:
        raise OutputError(f"{beside} cannot be written: {error.strerror}.") from error
    with scratch as folder:
        saved = [source]

        def reload(edit: Edit) -> Any:
            saved.append(Path(folder) / str(len(saved)))
            write_checkpoint(saved[-2], saved[-1], edit, None, dtype="bfloat16")
            return loading.load(saved[-1], "float16", _device(), four_bits=True)[0]

        yield reload
