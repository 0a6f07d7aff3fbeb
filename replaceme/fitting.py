"""A solver applied to a calibrated model, and how good the fit is."""

from __future__ import annotations

import time
from math import isnan
from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field, InstanceOf
from torch.nn.functional import cosine_similarity

from replaceme.edit import Edit, edit_temporarily
from replaceme.facts import Measures
from replaceme.report import Report, no_report
from replaceme.selection import merge_adjacent
from replaceme.solvers import Solver
from replaceme.solvers.base import Problem, TransformSolver
from replaceme.statistics import DIAGNOSED_TOKENS, TokenSample

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import PreTrainedModel

    from replaceme.calibrating import Calibration
    from replaceme.decoder import Decoder
    from replaceme.selection import Block


class Fit(Measures):
    """An edit with its diagnostics; the pairs are (plain removal, with the edit).

    The first two are measured over ``DIAGNOSED_TOKENS`` calibration tokens at most.
    """

    model_config = ConfigDict(frozen=True)

    edit: InstanceOf[Edit] = Field(exclude=True, description="what to do to the model")
    seconds: float = Field(0.0, exclude=True, description="time of the solve")


def fit(
    solver: Solver,
    calibration: Calibration,
    blocks: tuple[Block, ...],
    seed: int = 42,
    reload: Callable[[Edit], PreTrainedModel] | None = None,
    report: Report = no_report,
) -> Fit:
    """Run ``solver``. A result that is not finite is replaced by plain removal, and says so.

    Blocks that touch are one gap, and fitted as one (``compat_reference``: one by one).

    Args:
        reload: see :class:`replaceme.solvers.base.Problem`.
        report: see there.
    """
    one_by_one = calibration.compat_reference and isinstance(solver, TransformSolver)
    problem = Problem(
        blocks if one_by_one else merge_adjacent(blocks),
        calibration.statistics,
        calibration.decoder,
        calibration.batches,
        seed,
        calibration.following,
        in_turn=one_by_one and len(blocks) > 1,
        reload=reload,
        report=report,
    )
    start = time.perf_counter()
    edit, notes = solver.solve(problem)
    seconds = time.perf_counter() - start
    warning = None
    changed = edit.values
    if not all(bool(values.isfinite().all()) for values in changed):
        edit = Edit(problem.blocks)
        warning = "the solution was not finite; plain removal was used instead"
    errors, cosines = _diagnose(problem, edit)
    removal = calibration.held_back.judge_removal(problem.blocks)
    fitted = calibration.held_back.judge(edit) if changed else removal
    losses = (removal.loss, fitted.loss) if removal and fitted else None
    if warning is None:
        warning = _doubt(errors, cosines, losses)
    return Fit(
        edit=edit,
        relative_error=errors,
        mean_cosine=cosines,
        loss=losses,
        intact_loss=calibration.held_back.intact,
        divergence=fitted.divergence if fitted else None,
        warning=warning,
        notes=notes,
        seconds=seconds,
    )


def _doubt(
    errors: tuple[float, float], cosines: tuple[float, float], losses: tuple[float, float] | None
) -> str | None:
    """Why a fit is worse than plain removal, if it is: by the loss where that is known."""
    if losses is not None:
        return _worse("loss on held-back tokens", *losses)
    return _worse("mean cosine", -cosines[0], -cosines[1]) or _worse("relative error", *errors)


def _worse(measure: str, removal: float, fitted: float) -> str | None:
    if isnan(fitted):
        return f"its {measure} is not a number"
    return f"its {measure} is worse than that of plain removal" if fitted > removal else None


def _diagnose(problem: Problem, edit: Edit) -> tuple[tuple[float, float], tuple[float, float]]:
    """Relative error and mean cosine at the end of the first gap, before and after."""
    block = merge_adjacent(problem.blocks)[0]
    sample = problem.statistics[block].sample.first(DIAGNOSED_TOKENS)
    before, after = sample.before.double(), sample.after.double()
    fitted = before + _correction(problem.decoder, edit, block, sample)
    errors, cosines = [], []
    for predicted in (before, fitted):
        errors.append(float((predicted - after).norm() / after.norm()))
        cosines.append(float(cosine_similarity(predicted, after, dim=-1).mean()))
    return (errors[0], errors[1]), (cosines[0], cosines[1])


def _correction(decoder: Decoder, edit: Edit, block: Block, sample: TokenSample) -> Tensor | float:
    """What the edit adds to the state that leaves layer ``start-1``, [tokens, d]."""
    layer = block.start - 1
    if layer in edit.transforms:
        mlp = sample.mlp.double()
        return mlp @ edit.transforms[layer].to(mlp) - mlp
    if sample.inputs is None or not any(key[0] == layer for key in edit.weights):
        return 0.0
    intact = decoder.finish(layer, sample.inputs)
    with edit_temporarily(decoder.model, decoder.architecture, edit):
        return (decoder.finish(layer, sample.inputs) - intact).double().cpu()
