"""``replaceme-bench prune`` and ``apply``: one checkpoint, without the harness."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bench.console import report_progress
from bench.run.variants import (
    Variant,
    calibrated,
    fitted,
    text_for,
)
from bench.suite.suite import Blocks, Count, Dtype, ModelSpec, PruneSpec, Selector, SolverSpec, resolved
from replaceme.architectures import layer_count
from replaceme.calibration import CalibrationData
from replaceme.chat import USUAL_DAY, Day
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError
from replaceme.io import contents, yaml_source
from replaceme.io.outfolder import check_apart, check_free
from replaceme.provenance import choice_line, listed

if TYPE_CHECKING:
    from replaceme.pruning import Calibration


def _from_texts(blocks: Any) -> Any:
    """Pairs from texts ``START:END``; pairs stay."""
    blocks = [blocks] if isinstance(blocks, str) else blocks
    if not isinstance(blocks, list | tuple):
        raise ValueError("give a list of blocks, such as ['13:19']")
    if numbers := [block for block in blocks if isinstance(block, int)]:
        raise ValueError(
            f"{numbers[0]} is no block; write '13:19' with quotes (without them YAML reads a time), or "
            f"[13, 19]"
        )
    return [_pair(block) if isinstance(block, str) else block for block in blocks]


def _pair(text: str) -> tuple[int, int]:
    try:
        start, end = map(int, text.split(":"))
    except ValueError:
        raise ValueError(
            f"block {text!r} is not START:END with two whole numbers, such as 13:19"
        ) from None
    return start, end


def _folder(info: ValidationInfo) -> Path | None:
    """What paths of a file are relative to; ``None`` for an option of the command line."""
    context = info.context or {}
    return None if info.field_name in context.get("options", ()) else context.get("folder")


class PruneOptions(BaseModel):
    """What ``prune`` can be told, on the command line or in a file of the same keys."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, description="hub id, folder, GGUF file, or package:NAME/FILE.gguf")
    revision: str | None = Field(None, description="revision of a hub model")
    out: Path = Field(description="folder of the checkpoint")
    layers: Count | None = Field(None, description="number of layers to remove; the blocks are chosen")
    blocks: Annotated[Blocks, BeforeValidator(_from_texts)] = Field(
        [], description="blocks START:END to remove instead"
    )
    solver: SolverSpec = Field(
        default_factory=lambda: SolverSpec.model_validate("reconstruct"),
        description="name, or name and parameters",
    )
    ridge: float | None = Field(None, ge=0, description="ridge of the solver")
    selector: Selector = Field("angular", description="how the blocks are chosen")
    num_blocks: int = Field(1, gt=0, description="in how many blocks of the same size")
    calibration: str = Field("builtin:prose", description="file or hub data set")
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split, or a part of it such as train[:1000]")
    streaming: bool = Field(
        False, description="read a hub data set row by row instead of downloading it"
    )
    calibration_revision: str | None = Field(None, description="revision of a hub data set")
    column: str = Field("text", description="column of the calibration data")
    samples: int = Field(192, gt=0, description="sequences at most")
    max_length: int = Field(256, gt=1, description="tokens of a sequence at most")
    batch_size: int = Field(8, gt=0, description="sequences per forward")
    dtype: Dtype | None = Field(None, description="dtype to save in; null: the checkpoint's own")
    device: str | None = Field(None, description="torch device; null: the GPU where there is one")
    seed: int = Field(42, ge=0)
    date: Day = Field(USUAL_DAY, description="the day that chat templates take for today")
    calibration_dtype: Dtype | None = Field(
        None, description="dtype to calibrate in; null: that of the checkpoint"
    )
    compat: Literal["reference"] | None = Field(None, description="do as the published code does")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    transform_only: bool = Field(False, description="save what was fitted instead of a checkpoint")
    overwrite: bool = Field(False, description="replace what is at out")

    @field_validator("model", "calibration")
    @classmethod
    def _from_file(cls, name: str, info: ValidationInfo) -> str:
        folder = _folder(info)
        return name if folder is None else resolved(name, folder)

    @field_validator("out")
    @classmethod
    def _out_from_file(cls, out: Path, info: ValidationInfo) -> Path:
        return (_folder(info) or Path()) / out.expanduser()

    @field_validator("calibration")
    @classmethod
    def _is_there(cls, dataset: str) -> str:
        CalibrationData(dataset=dataset).local_file()
        return dataset

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.layers is None) == (not self.blocks):
            raise ValueError("give either --layers N or --blocks START:END")
        try:
            self.prune  # noqa: B018
            self.data.check()
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    @property
    def prune(self) -> PruneSpec:
        """The same as a section of a suite."""
        solver = {"name": self.solver.solver.name, **self.solver.solver.model_dump()}
        return PruneSpec.model_validate(
            {
                "layers": [] if self.layers is None else [self.layers],
                "blocks": self.blocks,
                "solvers": [solver if self.ridge is None else solver | {"ridge": self.ridge}],
                "selector": self.selector,
                "num_blocks": self.num_blocks,
                "compat": self.compat,
                "calibration_dtype": self.calibration_dtype,
                "batch_size": self.batch_size,
            }
        )

    @property
    def source(self) -> ModelSpec:
        """The model as a suite names it."""
        return ModelSpec(
            id=self.model,
            revision=self.revision,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def data(self) -> CalibrationData:
        return CalibrationData(
            dataset=self.calibration,
            subset=self.subset,
            split=self.split,
            revision=self.calibration_revision,
            streaming=self.streaming,
            column=self.column,
            samples=self.samples,
            max_length=self.max_length,
            seed=self.seed,
        )


def options_of(config: Path | None, given: dict[str, Any]) -> PruneOptions:
    """Options of a file, overruled by those of the command line.

    Raises:
        InputError: an unknown key, a wrong value, or no model or output.
    """
    if config is not None:
        if "blocks" in given:
            given = {"layers": None, "num_blocks": 1} | given
        elif "layers" in given:
            given = {"blocks": []} | given
        return yaml_source.load(config, PruneOptions, given)
    if "model" not in given:
        raise InputError("name the model: as the argument MODEL, or as 'model' in a --config file.")
    if "out" not in given:
        raise InputError("name the output: as --out, or as 'out' in a --config file.")
    try:
        return PruneOptions.model_validate(given)
    except ValidationError as error:
        messages = [yaml_source.option_message(PruneOptions, problem) for problem in error.errors()]
        raise InputError("\n".join(messages)) from None


def prune_checkpoint(options: PruneOptions) -> str:
    """Prune a model into a folder, or save what was fitted.

    Returns:
        What was done, for a person to read.

    Raises:
        InputError: an option is wrong, or the model cannot be pruned.
        OutputError: the output cannot be written.
    """
    from replaceme import surgery
    from replaceme.io import loading, models
    from replaceme.io.editfile import check_edit_file, save_edit
    from replaceme.io.saved import SavedLayers
    from replaceme.reload import Expected, reloaded_loss

    prune, out = options.prune, options.out
    (spec,), (count,) = prune.solvers, prune.counts
    if options.transform_only:
        check_edit_file(out, options.overwrite)
    else:
        check_free(out, options.overwrite)
    checkpoint = Checkpoint.open(options.model, options.revision, options.trust_remote_code)
    source, architecture = checkpoint.folder, checkpoint.architecture
    checkpoint.check(spec.solver, count, prune.given, prune.num_blocks, "--layers")
    if not options.transform_only:
        check_apart(source, out)
    device = options.device or loading.default_device()
    model, data, day = options.source, options.data, options.date
    with report_progress(sys.stderr, steps=3) as reporter:
        reporter.step("calibrating")
        text = text_for(source, model, prune, data, day)
        calibration = calibrated(
            source, model, prune, text, options.seed, [count], [spec.solver], device
        )
        reporter.next_step(f"fitting {spec.label}")
        variant = fitted(source, calibration, model, prune, data, text, count, spec.solver, day)
        reporter.next_step("saving")
        edit, provenance = variant.fit.edit, variant.provenance
        quality = _quality(calibration, variant)
        if options.transform_only:
            save_edit(out, edit, provenance)
        else:
            saved = SavedLayers.of(source, architecture, options.dtype)
            expected = Expected.of(calibration, variant.fit, saved)
            del calibration  # one model at a time in memory
            surgery.write_checkpoint(
                source,
                out,
                edit,
                provenance,
                dtype=options.dtype,
                overwrite=options.overwrite,
                trust_remote_code=options.trust_remote_code,
                confirm=partial(
                    reloaded_loss,
                    expected=expected,
                    device=device,
                    trust_remote_code=options.trust_remote_code,
                ),
            )
    lines = [architecture.notice + "."] if architecture.notice else []
    lines += _choice(variant, layer_count(models.read_config(source)))
    if text.rows and (notice := text.rows.notice()):
        lines.append(notice)
    lines += quality
    lines += [] if options.transform_only else contents.left_line(source)
    return "\n".join([*lines, f"Wrote {out}."])


def apply_edit(
    edit_file: Path, model: str, out: Path, overwrite: bool, trust_remote_code: bool = False
) -> str:
    """Merge what ``prune --transform-only`` saved into a model.

    Raises:
        InputError: the file is not such a file, or does not fit the model.
        OutputError: ``out`` cannot be written.
    """
    from replaceme import surgery
    from replaceme.io import models
    from replaceme.io.editfile import load_edit
    from replaceme.reload import Expected, reloaded_loss

    edit, provenance = load_edit(edit_file)
    if any(bool(values.isnan().any()) for values in (*edit.transforms.values(), *edit.weights.values())):
        raise InputError(f"{edit_file} holds weights that are not numbers; fit it again.")
    check_free(out, overwrite)
    source = models.locate(model, trust_remote_code=trust_remote_code)
    lines = []
    if (weights := models.fingerprint(model, folder=source)) != provenance.weights:
        provenance = provenance.elsewhere(model, weights)
        lines.append(f"Warning: {provenance.warning}.")
    check_apart(source, out)
    try:
        surgery.write_checkpoint(
            source,
            out,
            edit,
            provenance,
            dtype=provenance.dtype,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            confirm=lambda part: reloaded_loss(
                part,
                Expected.of_random_tokens(source, edit, provenance.dtype, trust_remote_code),
                trust_remote_code=trust_remote_code,
            ),
        )
    except InputError as error:
        raise InputError(f"{edit_file} does not fit model {model!r}: {error}") from None
    lines += [f"Removed layers {listed(edit.blocks)}.", *contents.left_line(source), f"Wrote {out}."]
    return "\n".join(lines)


def _choice(variant: Variant, num_layers: int) -> list[str]:
    chosen, selector = variant.fit.edit.blocks, variant.provenance.selector
    lines = [f"Removed layers {listed(chosen)} (0-based, the end stays) of {num_layers}."]
    return [*lines, choice_line(selector, variant.choice)] if selector and variant.choice else lines


def _quality(calibration: Calibration, variant: Variant) -> list[str]:
    found = variant.fit
    lines = [
        f"Fit on {calibration.tokens:,} tokens: relative error {_change(found.relative_error)}, "
        f"mean cosine {_change(found.mean_cosine)}."
    ]
    if found.loss is not None and found.intact_loss is not None:
        lines.append(
            f"Loss on {calibration.held_back.batches.tokens:,} held-back tokens: intact "
            f"{found.intact_loss:.4f}, layers removed {found.loss[0]:.4f}, fitted "
            f"{found.loss[1]:.4f} nats per token."
        )
    else:
        lines.append(f"No loss on held-back tokens: {_why_no_loss(calibration)}.")
    if found.warning:
        lines.append(f"Warning: {found.warning}.")
    return lines


def _why_no_loss(calibration: Calibration) -> str:
    if calibration.compat_reference:
        return "the published code holds nothing back"
    count = len(calibration.batches.sequences)
    return f"of {count} calibration sequences none is held back; give at least 10"


def _change(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4f} → {pair[1]:.4f}"
