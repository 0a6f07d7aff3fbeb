"""Where a pruned checkpoint comes from: ``replaceme.json`` and the model card."""

from __future__ import annotations

import re
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from replaceme.calibration import GENERATED
from replaceme.facts import HealFacts, Measures, Pair
from replaceme.io.models import is_hub_id
from replaceme.selectors import SELECTORS
from replaceme.solvers import SOLVERS

if TYPE_CHECKING:
    from replaceme.fitting import Fit
    from replaceme.selection import Block, Choice
    from replaceme.solvers import Solver

PACKAGES = ("replaceme", "torch", "transformers")


class Origin(BaseModel):
    """What was removed, how, and from which model."""

    model: str = Field(description="the intact model, as it was named")
    weights: str = Field(description="fingerprint of its weights")
    blocks: list[tuple[int, int]] = Field(description="removed layers, 0-based, half-open")
    selector: str | None = Field(description="how the blocks were chosen; null: they were given")
    runner_up: list[tuple[int, int]] | None = Field(description="the second best choice")
    solver: dict[str, Any] = Field(description="name, version and parameters")
    calibration: dict[str, Any] = Field(description="data set, its fingerprint, and tokens fitted on")


class Provenance(Measures, Origin):
    """Where a checkpoint comes from and how well its fit does; written with the origin first."""

    dtype: str | None = Field(None, description="what the weights were cast to; null: nothing")
    healed: list[HealFacts] = Field([], description="what was trained afterwards, one after the other")
    versions: dict[str, str] = Field(default_factory=lambda: {p: metadata.version(p) for p in PACKAGES})

    @classmethod
    def of(
        cls,
        fit: Fit,
        *,
        model: str,
        weights: str,
        solver: Solver,
        calibration: dict[str, Any],
        selector: str | None = None,
        choice: Choice | None = None,
        dtype: str | None = None,
    ) -> Provenance:
        """That of a fit; the other arguments are the fields of the same name."""
        return cls(
            **fit.model_dump(include=set(Measures.model_fields)),
            model=model,
            weights=weights,
            blocks=pair_blocks(fit.edit.blocks) or [],
            selector=selector,
            runner_up=pair_blocks(choice.runner_up) if choice else None,
            solver=solver.identity,
            calibration=calibration,
            dtype=dtype,
        )

    def elsewhere(self, model: str, weights: str) -> Provenance:
        """The same for a model that it was not fitted on: nothing is measured there, and it warns."""
        warning = f"it was fitted on other weights, those of {self.model}, and not measured here"
        unknown = dict.fromkeys(Measures.model_fields.keys() - {"warning", "notes"})
        fitted = f"; where it was fitted, {self.warning}" if self.warning else ""
        return self.model_copy(
            update=unknown | {"model": model, "weights": weights, "warning": warning + fitted}
        )

    def card(self) -> str:
        """A model card in the hub's format (https://huggingface.co/docs/hub/model-cards)."""
        data, tokens = name_text(self.calibration), self.calibration["tokens"]
        base = [f"base_model: {self.model}"] if is_hub_id(self.model) else []
        count = sum(end - start for start, end in self.blocks)
        return "\n".join(
            [
                "---",
                "library_name: transformers",
                *base,
                "tags: [pruned, depth-pruning, replaceme]",
                "---",
                "",
                f"# {self.model} with {count} decoder layers less",
                "",
                how_pruned(self.blocks, self.solver, data, tokens),
                "",
                *fit_table(self.intact_loss, self.loss, self.relative_error, self.mean_cosine),
                *([f"**Warning:** {self.warning}.", ""] if self.warning else []),
                *(line for facts in self.healed for line in [how_healed(facts), ""]),
                "Everything about how it was made is in `replaceme.json`.",
                "",
            ]
        )


def how_pruned(
    blocks: list[tuple[int, int]], solver: dict[str, Any], data: str, tokens: int | None
) -> str:
    """What was done to a checkpoint, in Markdown.

    Args:
        solver: its name and parameters.
        data: the calibration text, in Markdown.
        tokens: of it.
    """
    removed = ", ".join(f"[{start}, {end})" for start, end in blocks)
    settings = ", ".join(f"{key} {value}" for key, value in solver["parameters"].items())
    named = f"{code(str(solver['name']))}{f' ({code(settings)})' if settings else ''}"
    made_up = f"and the solver {named} made up for them on"
    if not fits(solver["name"]):
        made_up = f"and nothing was put in their place ({named}); calibration read"
    read = data if tokens is None else f"{tokens:,} tokens of {data}"
    return (
        f"Layers {removed} (0-based, the end stays) were removed without training, {made_up} {read}. "
        f"The checkpoint loads like any other; nothing but transformers is needed."
    )


def how_healed(facts: HealFacts) -> str:
    """What was trained of a checkpoint after it was pruned, in Markdown."""
    said, settings = "", dict(facts.training)
    part, rate = settings["train"], settings["learning_rate"]
    name, judged = facts.judged
    before, after = (f"{value:.3f}" for value in map(_known, judged))
    what = {"distillation": "toward the intact model's predictions", "sft": "on data, by sft"}
    if facts.warning:
        said = f" **Warning:** {facts.warning}."
    return (
        f"Then it was trained {what[facts.objective]}: {code(part)}"
        f"{' with norms' if settings['norms'] else ''}, {facts.numbers:,} numbers, on {facts.tokens:,} "
        f"tokens of {name_text(facts.text)} in {facts.seconds:,.0f} seconds, with a learning rate "
        f"of up to {rate:g}. Its {name} went from {before} to {after} nats per token on "
        f"{facts.held_back_tokens:,} held-back tokens.{said}"
    )


def name_text(described: dict[str, Any]) -> str:
    """A text in Markdown, by what :meth:`replaceme.CalibrationText.describe` says of it."""
    name = code(str(described["dataset"]))
    if not described.get("generated"):
        return name
    return name_own_text("" if described["dataset"] == GENERATED else name)


def name_own_text(prompts: str) -> str:
    """Text that the model wrote itself, in Markdown; ``prompts``: the data set that it answered."""
    return f"text that the model wrote itself{f', in answer to {prompts}' if prompts else ''}"


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def fit_table(
    intact_loss: float | None, loss: Pair, relative_error: Pair, mean_cosine: Pair
) -> list[str]:
    """Lines of a Markdown table of how well a solver's fit does on calibration text; none if unknown."""
    rows = {
        "loss, nats per held-back token": (intact_loss, *(loss or (None, None))),
        "relative error of the state behind the gap": (0.0, *(relative_error or (None, None))),
        "mean cosine of the same": (1.0, *(mean_cosine or (None, None))),
    }
    known = {name: values for name, values in rows.items() if None not in values}
    if not known:
        return []
    head = [
        "| on calibration text | intact | layers removed | and made up for |",
        "|---|---:|---:|---:|",
    ]
    lines = [f"| {n} | {' | '.join(f'{value:.3f}' for value in v)} |" for n, v in known.items()]
    return [*head, *lines, ""]


def fits(solver: str) -> bool:
    """Whether a solver puts something in the place of what it removes; one that is not known does."""
    return solver not in SOLVERS or SOLVERS[solver].fits


def code(text: str) -> str:
    """A text as a code span of Markdown, whatever it holds."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    gap = " " if "`" in text else ""
    return f"{fence}{gap}{text}{gap}{fence}"


def list_blocks(blocks: tuple[Block, ...]) -> str:
    """Blocks for a person to read."""
    return " and ".join(map(str, blocks))


def choice_line(selector: str, choice: Choice) -> str:
    """How the blocks were chosen, with the runner-up, in a sentence."""
    text = f"Chosen by {selector} at {SELECTORS[selector].measure} {choice.score:.4f}"
    if choice.runner_up and choice.runner_up_score is not None:
        text += f"; runner-up {list_blocks(choice.runner_up)} at {choice.runner_up_score:.4f}"
    return text + "."


def pair_blocks(blocks: tuple[Block, ...] | None) -> list[tuple[int, int]] | None:
    """Blocks as plain pairs."""
    return None if blocks is None else [(block.start, block.end) for block in blocks]
