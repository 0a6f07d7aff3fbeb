"""``run_replaceme`` and ``run_uidl``: the published commands, with the keys of the published YAMLs.

Keys, defaults and names of the output folders are those of https://github.com/mts-ai/ReplaceMe; two
things are files of another kind, because pickles are not read or written: distances are JSON, a
transform is safetensors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replaceme import yaml_source
from replaceme.calibration import (
    Batches,
    load_sequences,
    padding_token,
    rows_of,
)
from replaceme.chat import USUAL_DAY, apply_chat_template
from replaceme.errors import InputError, OutputError
from replaceme.files import write_atomically
from replaceme.loading import enough_memory
from replaceme.outfolder import check_apart, check_free
from replaceme.seedconfig import FINEWEB, MIXED, ORCA, Method, SeedConfig
from replaceme.yaml_file import shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DISTANCES = Path("distances.json")


@enough_memory()
def prune(config: SeedConfig, method: Method, overwrite: bool = False) -> str:
    """Choose blocks, fit, and write the model's folder, the distances and perhaps the transform.

    Returns:
        What was done, for a person to read.

    Raises:
        InputError: a value does not fit the model, or model or data cannot be read.
        OutputError: an output cannot be written.
    """
    config.data.local_file()
    import torch

    from replaceme import Provenance, calibrate, contents, fit, loading, models, write_checkpoint
    from replaceme.architectures import architecture_of, layer_count
    from replaceme.editfile import save_edit
    from replaceme.provenance import choice_line, listed
    from replaceme.reference import published_choice

    source = models.locate(config.model_path)
    settings = models.read_config(source)
    names = contents.tensor_names(source)
    architecture = architecture_of(settings, f"model {config.model_path!r}", names)
    config.make_solver(method, 1).check(architecture)
    layers, size = layer_count(settings), config.layers_to_skip
    if size >= layers:
        raise InputError(
            f"layers_to_skip: {size} layers cannot be removed from a model of {layers}; allowed are 1 "
            f"to {layers - 1}."
        )
    if config.save_path is not None:
        _check_outputs(config, method, source, config.folder(method, ()), overwrite)
    distances = _read_distances(config, layers)
    device = "auto" if torch.cuda.is_available() else "cpu"
    model, tokenizer = loading.load(source, "float32", device)
    sequences = calibration_sequences(config, tokenizer)
    batches = Batches(sequences, config.batch_size, pad=padding_token(tokenizer))
    if distances is None:
        distances = _measure_distances(config, model, batches)
    first = config.min_distance_layer if config.compat is None else None
    choice = published_choice(distances, size, config.num_A, config.merge_consecutive, first or 1)
    blocks = choice.blocks
    if not blocks:
        raise InputError(
            f"min_distance_layer: no {size} layers can be removed from layer {first} on in a model of "
            f"{layers}; allowed are 1 to {layers - size}."
        )
    folder = config.folder(method, blocks)
    _check_outputs(config, method, source, folder, overwrite)
    solver = config.make_solver(method, len(sequences) * config.max_length)
    calibration = calibrate(
        model, batches, blocks=[blocks], solvers=[solver], compat_reference=config.compat is not None
    )
    found = fit(solver, calibration, blocks)
    dtype = None if method == "uidl" else "bfloat16"
    provenance = Provenance.of(
        config.model_path,
        models.fingerprint(config.model_path, folder=source),
        solver,
        config.data.model_dump(exclude={"seed"})
        | {
            "samples": len(sequences),
            "date": USUAL_DAY.isoformat(),
            "fingerprint": config.data.fingerprint(),
            "tokens": calibration.tokens,
        },
        found,
        "angular",
        choice,
        dtype,
    )
    write_checkpoint(source, folder, found.edit, provenance, dtype=dtype, overwrite=overwrite)
    lines = [f"Removed layers {listed(blocks)} (0-based, the end stays) of {layers}."]
    lines.append(choice_line("angular", choice))
    lines += [f"Warning: {found.warning}."] if found.warning else []
    lines.append(f"Wrote {folder}.")
    if config.save_transform_only and found.edit.transforms:
        file = _transform_file(folder)
        save_edit(file, found.edit, provenance)
        lines.append(f"Wrote {file}.")
    return "\n".join(lines)


def _transform_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}_transform.safetensors")


def _check_outputs(
    config: SeedConfig, method: Method, source: Path, folder: Path, overwrite: bool
) -> None:
    """Refuse what may not be written, before the work that it would hold."""
    from replaceme.editfile import check_edit_file

    check_free(folder, overwrite)
    check_apart(source, folder)
    if config.save_transform_only and method != "uidl":
        check_edit_file(_transform_file(folder), overwrite)


def calibration_sequences(config: SeedConfig, tokenizer: Any) -> list[list[int]]:
    """Token ids of the first rows, in their order, cut to ``max_length``.

    Raises:
        InputError: the data set cannot be read, lacks the column, or holds something else than text.
    """
    data = config.data
    path = data.local_file()
    if path is not None and path.suffix == ".txt":
        return load_sequences(data, tokenizer)
    texts = _texts(config, tokenizer)
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"dataset_column: {data.column!r} of {data.dataset!r} does not hold texts.")
    encoded = [
        tokenizer(text, truncation=True, max_length=data.max_length, verbose=False)["input_ids"]
        for text in texts
    ]
    sequences = [ids for ids in encoded if ids]
    if not sequences:
        raise InputError(f"calibration dataset {data.dataset!r} holds no text.")
    return sequences


def _texts(config: SeedConfig, tokenizer: Any) -> list[Any]:
    if config.dataset == ORCA:
        return [first_turn(row, tokenizer) for row in rows_of(config.data, in_order=True)]
    if config.dataset != MIXED:
        return rows_of(config.data, in_order=True)
    size = config.dataset_size
    if size is None or size < 2:
        raise InputError(f"dataset_size: {MIXED} needs a number of rows, at least 2.")
    halves = {ORCA: size // 2, FINEWEB: size - size // 2}
    return [
        text
        for name, count in halves.items()
        for text in _texts(config.model_copy(update={"dataset": name, "dataset_size": count}), tokenizer)
    ]


def first_turn(conversation: list[dict[str, str]], tokenizer: Any) -> str:
    """The first question and its answer, without a system prompt, in the model's chat format."""
    if not tokenizer.chat_template:
        raise InputError(f"dataset: {ORCA} needs a model whose tokenizer has a chat template.")
    start = 0 if conversation[0]["from"] == "human" else 1
    roles = zip(("user", "assistant"), conversation[start : start + 2], strict=False)
    messages = [{"role": role, "content": message["value"]} for role, message in roles]
    return apply_chat_template(tokenizer, messages, tokenize=False)


def _read_distances(config: SeedConfig, layers: int) -> list[float] | None:
    """The list in the file, one for each block of ``layers_to_skip`` layers; ``None``: no file."""
    path = config.distances_path
    if path is None or not path.exists():
        return None
    count = layers - config.layers_to_skip
    try:
        distances = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        distances = None
    if (
        not isinstance(distances, list)
        or len(distances) != count
        or not all(isinstance(d, int | float) and isfinite(d) for d in distances)
    ):
        raise InputError(
            f"distances_path: {path} is not a JSON list of the {count} distances of blocks of "
            f"{config.layers_to_skip} layers in a model of {layers}; delete it to compute them."
        )
    return distances


def _measure_distances(config: SeedConfig, model: PreTrainedModel, batches: Batches) -> list[float]:
    from replaceme.decoder import Decoder
    from replaceme.reference import ReferenceBatches
    from replaceme.statistics import layer_distances

    compat = config.compat is not None
    decoder = Decoder.of(model, after_norm=compat)
    at_last, _ = layer_distances(decoder, ReferenceBatches.of(batches) if compat else batches)
    distances = at_last.diagonal(config.layers_to_skip).tolist()
    path = config.distances_path or DISTANCES
    write_atomically(path, json.dumps(distances).encode() + b"\n")
    return distances


@contextmanager
def _told_in_a_sentence() -> Iterator[None]:
    try:
        yield
    except (InputError, OutputError) as error:
        lines = str(error).split("\n")
        click.echo("Error: " + "\n".join(shown(line, len(line)) for line in lines), err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        sys.exit(130)


def _run(file: Path, method: Method | None, overwrite: bool) -> None:
    with _told_in_a_sentence():
        config = yaml_source.load(file, SeedConfig)
        chosen = method or config.method
        if chosen is None:
            raise InputError(f"{file}: method: this key is required; allowed are lstsq and cosine.")
        if config.min_distance_layer is not None and config.compat is not None:
            click.echo(
                "Note: min_distance_layer changes nothing, as in the published code; with "
                "'compat: null' it is the first layer that may be removed.",
                err=True,
            )
        if config.tasks is not None:
            click.echo("Note: tasks are not run here; 'replaceme-bench run' scores models.", err=True)
        click.echo(prune(config, chosen, overwrite))


CONFIG = click.option(
    "--config", "file", required=True, type=click.Path(path_type=Path), help="YAML file."
)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace an existing output folder.")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@CONFIG
@OVERWRITE
def run_replaceme(file: Path, overwrite: bool) -> None:
    """Prune a model by the published method, lstsq or cosine, as a published YAML says.

    Behaves as the published code; 'compat: null' in the file does what 'replaceme-bench prune' does.
    """
    _run(file, None, overwrite)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@CONFIG
@OVERWRITE
def run_uidl(file: Path, overwrite: bool) -> None:
    """Remove the closest layers of a model and put nothing in their place, as a published YAML says."""
    _run(file, "uidl", overwrite)
