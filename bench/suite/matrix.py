"""Suite → cells and the identity of each of their stages.

An identity holds exactly what changes numbers, so it can be computed from the plan and compared with
what a record says. Every field of a suite is either part of an identity or listed in ``RUNTIME``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any

from bench.names import cell_name, file_name
from bench.serving import ServeSettings, ServingIdentity, engine_version
from bench.suite.layer_counts import check_declared, prune_of
from bench.suite.prune_spec import PruneSpec
from bench.suite.scoring import Wanted
from bench.suite.suite import ModelSpec, Suite
from bench.tasks.planned import PlannedGroup, PlannedTask
from bench.tasks.spec import PromptSpec
from replaceme.calibration import CalibrationData
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError
from replaceme.healing.settings import VERSION as HEALING
from replaceme.healing.settings import HealSettings
from replaceme.io import models
from replaceme.recipe import (
    CalibrationSettings,
    HealStep,
    Identity,
    IntactModel,
    PruneStep,
    SolverSettings,
    Step,
    digest,
)
from replaceme.selection import check_count
from replaceme.settings import SolverSpec

RUNTIME = {
    "Suite": {"extends", "name", "device", "memory", "executor", "keep_checkpoints"},
    "ModelSpec": {"trust_remote_code", "num_layers"},
    "PruneSpec": {"batch_size"},
    "ScoreSpec": {
        "include_path",
        "batch_size",
        "batch_tokens",
        "method",
        "generate",
        "confirm_run_unsafe_code",
    },
    "TaskSpec": {"metric", "average"},
    "SolverSpec": {"label"},
}
PROMPT = {*PromptSpec.model_fields}
IDENTITY = {
    "Suite": {"models", "prune", "calibration", "date", "score", "serve"},
    "ModelSpec": {"id", "revision", "dtype", "matrix"},
    "Matrix": {"layers", "blocks", "solvers"},
    "PruneSpec": {
        "layers",
        "blocks",
        "solvers",
        "selector",
        "num_blocks",
        "compat",
        "calibration_dtype",
    },
    "ScoreSpec": {"tasks", "limit", "dtype", "seed"} | PROMPT,
    "TaskSpec": {"task", "num_fewshot"} | PROMPT,
    "SolverSpec": {"solver", "heal"},
}
VOLATILE_CONFIG = ("_name_or_path", "transformers_version")


@dataclass(frozen=True)
class Cell:
    """One variant of one model: the baseline (``layers`` 0, no solver), or a pruned one.

    ``identity`` says what its checkpoint is made of; the block is a result and not part of it. ``prune``
    is the suite's section as it is for this model, layer counts as whole numbers.
    """

    model: ModelSpec
    layers: int
    solver: SolverSpec | None
    identity: Identity
    prune: PruneSpec = field(hash=False)

    @property
    def label(self) -> str:
        return self.solver.label if self.solver else "baseline"

    @property
    def name(self) -> str:
        """Readable name, matched by ``--only``: ``MODEL/baseline`` or ``MODEL/N/SOLVER``."""
        return cell_name(self.model.name, self.layers, self.label)

    @property
    def heal(self) -> HealSettings | None:
        """What is trained after pruning, if anything is."""
        return self.solver.heal if self.solver else None

    @property
    def pruned(self) -> Cell:
        """The same before anything was trained, whether the suite has it as a cell or not."""
        if self.solver is None or self.heal is None:
            return self
        solver = self.solver.model_copy(update={"heal": None})
        return replace(self, solver=solver, identity=self.identity.before(HealStep.kind))

    @property
    def trained(self) -> Cell:
        """The same with its training done to the end."""
        return replace(self, identity=self.identity.training)

    @property
    def stem(self) -> str:
        """Name of the cell's files; independent of the label, which may change."""
        kind = f"{self.layers} {self.solver.solver.name}" if self.solver else "baseline"
        kind += " healed" * (self.heal is not None)
        return f"{file_name(f'{self.model.name} {kind}')}-{self.identity.digest[:8]}"


@dataclass(frozen=True)
class Plan:
    """All cells of a suite with what is scored: single tasks, and the groups that they make up.

    Attributes:
        served_on: name of what vLLM computes on; ``None``: that is not known before workers are there.
    """

    suite: Suite
    cells: list[Cell]
    tasks: list[PlannedTask]
    groups: list[PlannedGroup] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    served_on: str | None = None


def expand(suite: Suite, only: tuple[str, ...] = ()) -> Plan:
    """The cells of a suite, baseline first, then by layer count.

    Args:
        only: keep the cells whose name matches one of these globs; empty keeps all.

    Raises:
        InputError: an unknown task, a layer count that does not fit a model on this machine, a
            missing local model or calibration file, or globs that match nothing.
    """
    wanted = Wanted(suite.score, suite.date)
    cells = []
    for model in suite.models:
        prune = prune_of(suite, model)
        _check_model(prune, model)
        intact = Identity(model=_intact(model))
        cells.append(Cell(model, 0, None, intact, prune))
        cells += [
            Cell(model, count, solver, intact.after(*_steps(suite, prune, count, solver)), prune)
            for count in prune.counts
            for solver in prune.solvers
        ]
    _check_distinct(cells)
    kept = [cell for cell in cells if not only or any(fnmatch(cell.name, glob) for glob in only)]
    if not kept:
        raise InputError(
            f"--only {' '.join(only)} matches no cell; cells are named like {cells[-1].name!r}."
        )
    return Plan(suite, kept, wanted.tasks, wanted.groups, wanted.notes)


def _check_distinct(cells: list[Cell]) -> None:
    names: dict[str, str] = {}
    for cell in cells:
        if (other := names.setdefault(cell.stem, cell.name)) != cell.name:
            raise InputError(
                f"the cells {other!r} and {cell.name!r} are duplicates: the same solver with the same "
                f"parameters on the same model; keep one of them."
            )


def _check_model(prune: PruneSpec, model: ModelSpec) -> None:
    """Refuse what can be seen to be wrong with a model; more where it is on this machine already."""
    checkpoint = Checkpoint.find(model.id, model.revision, model.trust_remote_code)
    if checkpoint is None:
        if model.num_layers and not prune.blocks:
            for count in prune.counts:
                check_count(count, model.num_layers, f"prune.layers, model {model.id!r}")
        return
    check_declared(model, checkpoint)
    for count in prune.counts:
        for spec in prune.solvers:
            checkpoint.check(spec.solver, count, prune.given, prune.num_blocks, "prune.layers")


def _intact(model: ModelSpec) -> IntactModel:
    files = models.files_fingerprint(model.id)
    weights = models.fingerprint(model.id, model.revision)
    return IntactModel(weights=weights, dtype=model.dtype, **({"files": files} if files else {}))


def _text(suite: Suite, data: CalibrationData) -> CalibrationSettings:
    date = {} if data.is_plain_text else {"date": suite.date.isoformat()}
    return CalibrationSettings.model_validate(data.identity() | date)


def _steps(suite: Suite, prune: PruneSpec, count: int, solver: SolverSpec) -> Iterator[Step]:
    yield PruneStep(
        layers=count,
        blocks=tuple((block.start, block.end) for block in prune.given),
        selector=None if prune.blocks else prune.selector,
        num_blocks=prune.num_blocks,
        compat=prune.compat,
        calibration_dtype=prune.calibration_dtype,
        solver=SolverSettings.model_validate(solver.solver.identity),
        calibration=_text(suite, suite.calibration),
    )
    if heal := solver.heal:
        text = _text(suite, heal.text(suite.calibration)) if heal.dataset else None
        yield HealStep(version=HEALING, training=heal.parameters(), text=text)


def serving_identity(
    config: dict[str, Any], settings: ServeSettings, stem: str, device: str | None
) -> ServingIdentity:
    """What a serving measurement depends on: the shape of the model, the load, engine and device.

    Args:
        config: ``config.json`` of the checkpoint.
        stem: the cell, which counts only where every checkpoint is measured by itself.
        device: name of what the engine computes on.
    """
    shape = {key: value for key, value in config.items() if key not in VOLATILE_CONFIG}
    return ServingIdentity(
        config=digest(shape),
        settings=settings.identity(),
        engine_version=engine_version(),
        device=device,
        checkpoint=stem if settings.per_checkpoint else None,
    )
