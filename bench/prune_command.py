"""``replaceme-bench prune`` and ``apply``: one checkpoint, without the harness."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from replaceme import yaml_source
from replaceme.calibration import Batches, CalibrationData, load_sequences, padding_token
from replaceme.errors import InputError, nearest
from replaceme.selection import SELECTORS, Block, Selection, check_blocks, check_count, merge_adjacent
from replaceme.solvers import Solver, make_solver

if TYPE_CHECKING:
    from replaceme.fitting import Fit
    from replaceme.pruning import Calibration
    from replaceme.selection import Choice


class PruneOptions(BaseModel):
    """What ``prune`` can be told, on the command line or in a file of the same keys."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="hub id, folder, GGUF file, or package:NAME/FILE.gguf")
    out: Path = Field(description="folder of the checkpoint")
    layers: int | None = Field(None, description="number of layers to remove; the blocks are chosen")
    blocks: list[str] = Field([], description="blocks START:END to remove instead")
    solver: str | dict[str, Any] = Field("lstsq", description="name, or name and parameters")
    ridge: float | None = Field(None, ge=0, description="ridge of the solver")
    selector: str = Field("angular", description="how the blocks are chosen")
    num_blocks: int = Field(1, gt=0, description="in how many blocks of the same size")
    calibration: str = Field("builtin:prose", description="file or hub data set")
    column: str = Field("text", description="column of the calibration data")
    samples: int = Field(192, gt=0, description="sequences at most")
    max_length: int = Field(256, gt=1, description="tokens of a sequence at most")
    batch_size: int = Field(8, gt=0, description="sequences per forward")
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = Field(None, description="torch device; null: the GPU where there is one")
    seed: int = Field(42, ge=0)
    compat: Literal["reference"] | None = Field(None, description="do as the published code does")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    transform_only: bool = Field(False, description="save what was fitted instead of a checkpoint")
    overwrite: bool = Field(False, description="replace what is at out")

    @property
    def data(self) -> CalibrationData:
        return CalibrationData(
            dataset=self.calibration,
            column=self.column,
            samples=self.samples,
            max_length=self.max_length,
            seed=self.seed,
        )

    def make_solver(self) -> Solver:
        """The solver with its parameters.

        Raises:
            InputError: there is none of that name, or with such parameters.
        """
        given = {"name": self.solver} if isinstance(self.solver, str) else dict(self.solver)
        if not isinstance(name := given.pop("name", None), str):
            raise InputError("solver: give a name, or a mapping with name and parameters.")
        return make_solver(name, **given, **({} if self.ridge is None else {"ridge": self.ridge}))


def options_of(config: Path | None, given: dict[str, Any]) -> PruneOptions:
    """Options of a file, overruled by those of the command line.

    Raises:
        InputError: an unknown key, a wrong value, or no model or output.
    """
    if config is not None:
        return yaml_source.load(config, PruneOptions, given)
    if "model" not in given:
        raise InputError("name the model: as the argument MODEL, or as 'model' in a --config file.")
    if "out" not in given:
        raise InputError("name the output: as --out, or as 'out' in a --config file.")
    return PruneOptions.model_validate(given)


def prune_checkpoint(options: PruneOptions) -> str:
    """Prune a model into a folder, or save what was fitted.

    Returns:
        What was done, for a person to read.

    Raises:
        InputError: an option is wrong, or the model cannot be pruned.
        OutputError: the output cannot be written.
    """
    if (options.layers is None) == (not options.blocks):
        raise InputError("give either --layers N or --blocks START:END.")
    if options.selector not in SELECTORS:
        raise InputError(
            f"unknown selector {options.selector!r}{nearest(options.selector, list(SELECTORS))} "
            f"Selectors are {', '.join(SELECTORS)}."
        )
    solver = options.make_solver()
    options.data.local_file()
    from replaceme import Provenance, fit, models, surgery
    from replaceme.architectures import architecture_of, layer_count
    from replaceme.editfile import save_edit
    from replaceme.pruning import calibrate

    surgery.check_free(options.out, options.overwrite)
    source = models.locate(options.model)
    config = models.read_config(source)
    architecture = architecture_of(config, f"model {options.model!r}", models.tensor_names(source))
    solver.check(architecture)
    num_layers = layer_count(config)
    given = merge_adjacent(Block.parse(text, num_layers) for text in options.blocks)
    check_blocks(given, num_layers)
    if options.layers is not None:
        check_count(options.layers, num_layers, "--layers", options.num_blocks)
    loaded, tokenizer = models.load(
        source, options.dtype, options.device or models.default_device(), options.trust_remote_code
    )
    sequences = load_sequences(options.data, tokenizer)
    result = calibrate(
        loaded,
        Batches(sequences, options.batch_size, options.seed, padding_token(tokenizer)),
        counts=[options.layers] if options.layers is not None else [],
        blocks=[given] if given else [],
        solvers=[solver],
        selection=Selection(options.selector, options.num_blocks),
        compat_reference=options.compat == "reference",
    )
    choice = result.choices.get(options.layers) if options.layers is not None else None
    blocks = choice.blocks if choice else given
    found = fit(solver, result, blocks, options.seed)
    provenance = Provenance.of(
        options.model,
        models.fingerprint(options.model),
        solver,
        options.data.model_dump() | {"fingerprint": options.data.fingerprint(), "tokens": result.tokens},
        found,
        options.selector if choice else None,
        choice,
    )
    if options.transform_only:
        save_edit(options.out, found.edit, provenance)
    else:
        surgery.write_checkpoint(
            source,
            options.out,
            found.edit,
            provenance,
            dtype=options.dtype,
            overwrite=options.overwrite,
        )
    lines = [architecture.notice + "."] if architecture.notice else []
    lines += _summary(blocks, num_layers, options.selector, choice)
    lines += _quality(result, found)
    return "\n".join([*lines, f"Wrote {options.out}."])


def apply_edit(edit_file: Path, model: str, out: Path, overwrite: bool) -> str:
    """Merge what ``prune --transform-only`` saved into a model.

    Raises:
        InputError: the file is not such a file, or does not fit the model.
        OutputError: ``out`` cannot be written.
    """
    from replaceme import models, surgery
    from replaceme.editfile import load_edit

    edit, provenance = load_edit(edit_file)
    surgery.check_free(out, overwrite)
    source = models.locate(model)
    lines = []
    if (weights := models.fingerprint(model)) != provenance.weights:
        lines.append(f"Note: it was fitted on other weights, those of {provenance.model}.")
        provenance = provenance.model_copy(update={"model": model, "weights": weights})
    surgery.write_checkpoint(source, out, edit, provenance, overwrite=overwrite)
    return "\n".join([*lines, f"Removed layers {_listed(edit.blocks)}. Wrote {out}."])


def _listed(blocks: tuple[Block, ...]) -> str:
    return " and ".join(map(str, blocks))


def _summary(
    blocks: tuple[Block, ...], num_layers: int, selector: str, choice: Choice | None
) -> list[str]:
    text = f"Removed layers {_listed(blocks)} (0-based, the end stays) of {num_layers}."
    if choice:
        text += f" Selector {selector}: {choice.score:.4f}"
        if choice.runner_up and choice.runner_up_score is not None:
            text += f"; next best {_listed(choice.runner_up)} at {choice.runner_up_score:.4f}"
        text += "."
    return [text]


def _quality(result: Calibration, found: Fit) -> list[str]:
    lines = [
        f"Fit on {result.tokens:,} tokens: relative error {_change(found.relative_error)}, "
        f"mean cosine {_change(found.mean_cosine)}."
    ]
    if found.loss is not None and found.intact_loss is not None:
        lines.append(
            f"Loss on {result.held_back.batches.tokens:,} held-back tokens: intact "
            f"{found.intact_loss:.4f}, layers removed {found.loss[0]:.4f}, this model "
            f"{found.loss[1]:.4f} nats per token."
        )
    if found.warning:
        lines.append(f"Warning: {found.warning}.")
    return lines


def _change(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4f} → {pair[1]:.4f}"
