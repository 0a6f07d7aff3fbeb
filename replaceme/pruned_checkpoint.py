"""A model on disk → a pruned checkpoint on disk, or the edit alone, which is applied later."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError
from replaceme.facts import PruneFacts
from replaceme.io import contents, loading, models
from replaceme.io.editfile import check_edit_file, load_edit, save_edit
from replaceme.io.outfolder import check_apart, check_free
from replaceme.io.yaml_source import check_options
from replaceme.options import PruneOptions
from replaceme.provenance import Provenance, list_blocks
from replaceme.report import Watcher
from replaceme.summary import tell_choice, tell_fit

if TYPE_CHECKING:
    from replaceme.reload import Expected
    from replaceme.session import Variant


@dataclass(frozen=True)
class PrunedCheckpoint:
    """What was written.

    Attributes:
        out: the folder of the checkpoint, or the file of the edit.
        provenance: what ``replaceme.json`` says.
        facts: how it was chosen, and how well it fits.
        summary: the same for a person to read.
    """

    out: Path
    provenance: Provenance
    facts: PruneFacts
    summary: str


def prune_checkpoint(model: str, out: str | Path, **options: Any) -> PrunedCheckpoint:
    """Prune a model on disk into a new checkpoint; memory holds one model at a time.

    What was written is loaded again and must predict what was fitted.

    Args:
        model: hub id, folder, GGUF file, or package:NAME/FILE.gguf.
        out: folder of the pruned checkpoint.
        options: fields of :class:`replaceme.PruneOptions`, such as ``layers=6``,
            ``blocks=["13:19"]``, ``solver="lstsq"`` or ``overwrite=True``.

    Raises:
        InputError: an option is wrong, or the model cannot be pruned.
        OutputError: the output cannot be written.
    """
    return prune_as_told(check_options(PruneOptions, {"model": model, "out": out} | options))


def prune_as_told(options: PruneOptions, watcher: Watcher | None = None) -> PrunedCheckpoint:
    """:func:`prune_checkpoint` with options that are checked already."""
    watcher, out = watcher or Watcher(), options.out
    if options.transform_only:
        check_edit_file(out, options.overwrite)
    else:
        check_free(out, options.overwrite)
    source = Checkpoint.open(options.model, options.revision, options.trust_remote_code)
    solver = options.make_solver()
    source.check(solver, options.layers or 0, options.given, options.num_blocks, "--layers")
    if not options.transform_only:
        check_apart(source.folder, out)
    device = options.device or loading.default_device()
    variant, expected, notice = _fit(options, source, device, watcher)
    watcher.step("saving")
    provenance = source.trace(variant, options.dtype)
    if expected is None:
        save_edit(out, variant.fit.edit, provenance)
    else:
        source.write(
            variant.fit.edit,
            out,
            provenance,
            dtype=options.dtype,
            overwrite=options.overwrite,
            confirm=partial(
                source.confirm, expected=expected, device=device, memory=options.memory_bytes
            ),
        )
    lines = tell_choice(variant, source.layers)
    lines += [notice] if notice else []
    lines += tell_fit(variant)
    lines += [] if options.transform_only else contents.left_line(source.folder)
    return PrunedCheckpoint(out, provenance, variant.facts, "\n".join([*lines, f"Wrote {out}."]))


def _fit(
    options: PruneOptions, source: Checkpoint, device: str, watcher: Watcher
) -> tuple[Variant, Expected | None, str | None]:
    """The variant, what a checkpoint of it is to predict, and what to say of the calibration text.

    The loaded model is gone when this returns.
    """
    compat, solver = options.compat == "reference", options.make_solver()
    watcher.step("calibrating")
    text = source.read_text(options.data, options.date, compat)
    session = source.calibrate(
        text,
        solvers=[solver],
        counts=[options.layers] if options.layers else [],
        blocks=[options.given] if options.blocks else [],
        selection=options.selection,
        batch_size=options.batch_size,
        dtype=options.calibration_dtype or options.dtype,
        device=device,
        memory=options.memory_bytes,
        compat_reference=compat,
        report=watcher.share,
    )
    watcher.step(f"fitting {options.solver.label}")
    with loading.enough_memory():
        variant = session.fit(solver, options.layers or 0, options.given, report=watcher.share)
    expected = None if options.transform_only else source.expect(session, variant, options.dtype)
    return variant, expected, text.rows.notice() if text.rows else None


def apply_edit(
    edit_file: Path, model: str, out: Path, overwrite: bool = False, trust_remote_code: bool = False
) -> str:
    """Merge what ``transform_only`` saved into a model.

    Returns:
        What was done, for a person to read.

    Raises:
        InputError: the file is not such a file, or does not fit the model.
        OutputError: ``out`` cannot be written.
    """
    edit, provenance = load_edit(edit_file)
    if any(bool(values.isnan().any()) for values in edit.values):
        raise InputError(f"{edit_file} holds weights that are not numbers; fit it again.")
    check_free(out, overwrite)
    folder = models.locate(model, trust_remote_code=trust_remote_code)
    lines = []
    if (weights := models.fingerprint(model, folder=folder)) != provenance.weights:
        provenance = provenance.elsewhere(model, weights)
        lines.append(f"Warning: {provenance.warning}.")
    check_apart(folder, out)
    try:
        source = Checkpoint.read(model, folder, trust_remote_code=trust_remote_code)
        source.write(
            edit,
            out,
            provenance,
            dtype=provenance.dtype,
            overwrite=overwrite,
            confirm=partial(source.confirm_edit, edit=edit, dtype=provenance.dtype),
        )
    except InputError as error:
        raise InputError(f"{edit_file} does not fit model {model!r}: {error}") from None
    lines += [
        f"Removed layers {list_blocks(edit.blocks)}.",
        *contents.left_line(folder),
        f"Wrote {out}.",
    ]
    return "\n".join(lines)
