"""One variant of a model, as ``run`` and ``prune`` both make it: check, calibrate, fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from replaceme.architectures import Architecture, architecture_of, check_present, layer_count
from replaceme.calibration import (
    Batches,
    CalibrationData,
    CalibrationText,
    padding_token,
    read_text,
)
from replaceme.errors import InputError
from replaceme.io import contents, loading, models
from replaceme.provenance import Provenance
from replaceme.selection import check_blocks, check_count

if TYPE_CHECKING:
    from bench.suite.suite import ModelSpec, PruneSpec
    from replaceme.fitting import Fit
    from replaceme.pruning import Calibration
    from replaceme.selection import Choice
    from replaceme.solvers import Solver


def architecture_in(folder: Path, model: str) -> Architecture:
    """The architecture of a checkpoint; reads its config and headers alone.

    Raises:
        InputError: it is not supported, or not whole.
    """
    config, where, names = models.read_config(folder), f"model {model!r}", contents.tensor_names(folder)
    architecture = architecture_of(config, where, names)
    check_present(architecture, config, where, names)
    return architecture


def check_variant(
    prune: PruneSpec,
    count: int,
    solver: Solver,
    folder: Path,
    model: str,
    architecture: Architecture,
    key: str = "prune.layers",
) -> None:
    """Refuse a variant that cannot be made of a checkpoint; reads its config alone.

    Args:
        count: layers to remove.
        folder: the checkpoint.
        model: its name.
        key: what the user calls the layer count.

    Raises:
        InputError: naming the model, and the count, block or solver that does not fit it.
    """
    where, layers = f"model {model!r}", layer_count(models.read_config(folder))
    if not prune.blocks:
        check_count(count, layers, f"{key}, {where}", prune.num_blocks)
    try:
        solver.check(architecture)
        check_blocks(prune.given, layers)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def text_for(
    source: Path, model: ModelSpec, prune: PruneSpec, data: CalibrationData, day: date
) -> CalibrationText:
    """The calibration tokens of a checkpoint, on ``day`` where its chat template asks.

    Raises:
        InputError: the data cannot be read, or cannot be used.
    """
    tokenizer = loading.load_tokenizer(source, model.trust_remote_code)
    pad = padding_token(tokenizer) if prune.compat == "reference" else None
    return replace(read_text(data, tokenizer, day), counted_pad=pad)


@loading.enough_memory()
def calibrated(
    source: Path,
    model: ModelSpec,
    prune: PruneSpec,
    text: CalibrationText,
    seed: int,
    counts: Iterable[int],
    solvers: Iterable[Solver],
    device: str,
) -> Calibration:
    """Load a checkpoint and calibrate it for all its variants."""
    from replaceme.pruning import calibrate

    dtype = prune.calibration_dtype or model.dtype
    loaded, tokenizer = loading.load(source, dtype, device, model.trust_remote_code)
    return calibrate(
        loaded,
        Batches(text.sequences, prune.batch_size, seed, padding_token(tokenizer)),
        counts=[] if prune.blocks else counts,
        blocks=[prune.given] if prune.blocks else [],
        solvers=solvers,
        selection=prune.selection,
        compat_reference=prune.compat == "reference",
    )


@dataclass(frozen=True)
class Variant:
    """A fitted variant; ``choice`` is ``None`` where the blocks were given."""

    fit: Fit
    choice: Choice | None
    provenance: Provenance


@loading.enough_memory()
def fitted(
    source: Path,
    calibration: Calibration,
    model: ModelSpec,
    prune: PruneSpec,
    data: CalibrationData,
    text: CalibrationText,
    count: int,
    solver: Solver,
    day: date,
) -> Variant:
    """Fit one solver for one layer count, or for the blocks that ``prune`` gives."""
    from replaceme.fitting import fit

    choice = calibration.choices.get(count)
    found = fit(solver, calibration, choice.blocks if choice else prune.given, data.seed)
    provenance = Provenance.of(
        model.id,
        models.fingerprint(model.id, model.revision, source),
        solver,
        data.model_dump()
        | {"date": None if data.is_plain_text else day.isoformat()}
        | {"fingerprint": data.fingerprint(), "tokens": calibration.tokens}
        | text.described(),
        found,
        prune.selector if choice else None,
        choice,
        model.dtype,
    )
    return Variant(found, choice, provenance)
