"""What is measured of a fit, typed once: for the provenance of a checkpoint and for records."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from replaceme.calibration import RowCount


def _drop_infinite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_drop_infinite)]  # None: unknown, or not finite
Pair = tuple[Number, Number] | None  # with plain removal, and with the fit


class Divergence(BaseModel):
    """KL(intact ‖ variant) of next-token distributions over the full vocabulary, in nats."""

    model_config = ConfigDict(extra="forbid")

    mean: Number = Field(description="over positions; null: not finite")
    p99: Number = Field(None, description="99th percentile over positions; null: unknown")
    positions: int = Field(description="predicted tokens that were counted")


class Measures(BaseModel):
    """How well a solver's fit does on calibration text."""

    relative_error: Pair = Field(
        None,
        description="√(Σ‖prediction − L‖² / Σ‖L‖²) at the end of the first block on sampled calibration "
        "tokens, with plain removal, and with the fit; null: not measured on these weights",
    )
    mean_cosine: Pair = Field(
        None,
        description="mean cos(prediction, L) on the same tokens, with plain removal, and with the fit",
    )
    loss: Pair = Field(
        None, description="nats per held-back calibration token, with plain removal, and with the fit"
    )
    intact_loss: Number = Field(None, description="nats per held-back token of the intact model")
    divergence: Divergence | None = Field(
        None,
        description="from the intact model, with the fit, at every position of the held-back tokens",
    )
    warning: str | None = Field(None, description="why the fit should not be trusted")
    notes: dict[str, Any] = Field(default={}, description="the solver's own notes")


class PruneFacts(Measures):
    """What was removed from a model, by what choice, and what the fit was made on."""

    blocks: list[tuple[int, int]] = Field(
        description="removed layers, 0-based, half-open; empty: the baseline"
    )
    score: Number = Field(
        None, description="what the selector minimised: angular distance (0 to 1), or nats per token"
    )
    runner_up: list[tuple[int, int]] | None = Field(None, description="the second best choice")
    runner_up_score: Number = None
    distances: list[list[Number]] | None = Field(
        None,
        description="the selector's distance of every block, 0 to 1: [size − 1][start − 1]; null: "
        "blocks were given",
    )
    held_back_tokens: int | None = Field(None, description="calibration tokens that were not fitted on")
    solve_seconds: float | None = None
    calibration_tokens: int | None = Field(
        None, description="real tokens that were fitted on, padding not counted"
    )
    calibration_hash: str | None = Field(
        None, description="SHA-256 of the token ids of all calibration sequences, in their order"
    )
    calibration_rows: RowCount | None = Field(
        None, description="what became of the rows of the data set; null: a text without rows"
    )
    calibration_seconds: float | None = Field(
        None, description="all passes, shared by the model's cells"
    )


class HealPoint(BaseModel):
    """Where training stood when the held-back text judged."""

    model_config = ConfigDict(extra="forbid")

    tokens: int = Field(description="trained on so far")
    seconds: float = Field(description="of training so far")
    learning_rate: Number = Field(None, description="of the last step; null: before the first")
    trained: Number = Field(None, description="mean loss of the tokens since the point before, in nats")
    held_back: Number = Field(description="mean loss of the held-back tokens, in nats")


class HealFacts(BaseModel):
    """What was trained of a pruned model, on what, and what came of it.

    The loss is that of the objective: of ``distillation`` KL(intact ‖ pruned) of the distributions of
    the next token, of ``sft`` the cross entropy of the tokens that are learnt.
    """

    model_config = ConfigDict(extra="forbid")

    objective: Literal["distillation", "sft"] = "distillation"
    training: dict[str, Any] = Field(description="the settings that change numbers")
    numbers: int = Field(description="how many numbers were trained")
    shared_layers: int = Field(description="layers that were run once for both models")
    tokens: int = Field(description="tokens trained on, those read again counted again")
    seconds: float = Field(description="of training, judging included")
    text: dict[str, Any] = Field(description="what it was trained on, as in calibration")
    held_back_tokens: int
    divergence: Pair = Field(
        None,
        description="of distillation: KL from the intact model in nats per held-back token, before and "
        "after",
    )
    cross_entropy: Pair = Field(
        None, description="of sft: nats per held-back token that is learnt, before and after"
    )
    loss: Pair = Field(
        None, description="negative log-likelihood in nats per held-back token, before and after"
    )
    curve: list[HealPoint] = Field(description="at every check, the start first")
    used: bool = Field(description="false: it made nothing better, and the weights are as before")
    warning: str | None = Field(None, description="what went wrong")

    @property
    def judged(self) -> tuple[str, tuple[Number, Number]]:
        """What it was judged by on held-back text, in words, and that before and after."""
        if self.objective == "sft":
            return "cross entropy of what is learnt", self.cross_entropy or (None, None)
        return "KL divergence from the intact model", self.divergence or (None, None)
