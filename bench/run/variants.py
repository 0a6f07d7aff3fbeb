"""One variant of a model, as ``run`` and ``prune`` both make it: check, calibrate, fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from replaceme.calibration import (
    Batches,
    CalibrationData,
    CalibrationText,
    padding_token,
    read_text,
)
from replaceme.io import loading, models
from replaceme.provenance import Provenance
from replaceme.report import Report, no_report

if TYPE_CHECKING:
    from bench.suite.suite import ModelSpec, PruneSpec
    from replaceme.fitting import Fit
    from replaceme.pruning import Calibration
    from replaceme.selection import Choice
    from replaceme.solvers import Solver


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
    report: Report = no_report,
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
        report=report,
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
    report: Report = no_report,
) -> Variant:
    """Fit one solver for one layer count, or for the blocks that ``prune`` gives."""
    from replaceme.fitting import fit

    choice = calibration.choices.get(count)
    found = fit(solver, calibration, choice.blocks if choice else prune.given, data.seed, report=report)
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
