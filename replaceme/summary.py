"""What was done to a model, in sentences for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replaceme.provenance import choice_line, list_blocks

if TYPE_CHECKING:
    from replaceme.facts import Pair
    from replaceme.session import Variant


def tell_choice(variant: Variant, layers: int) -> list[str]:
    """Which layers went, of how many, and by what choice."""
    removed = variant.choice.blocks if variant.choice else variant.fit.edit.blocks
    lines = [f"Removed layers {list_blocks(removed)} (0-based, the end stays) of {layers}."]
    if variant.selector and variant.choice:
        lines.append(choice_line(variant.selector, variant.choice))
    return lines


def tell_warning(variant: Variant) -> list[str]:
    """Why it should not be trusted, if it should not."""
    return [f"Warning: {variant.fit.warning}."] if variant.fit.warning else []


def tell_fit(variant: Variant) -> list[str]:
    """How good the fit is."""
    fit, facts = variant.fit, variant.facts
    lines = [
        f"Fit on {facts.calibration_tokens:,} tokens: relative error {_tell(fit.relative_error)}, "
        f"mean cosine {_tell(fit.mean_cosine)}."
    ]
    if variant.no_loss is None and fit.loss:
        removed, fitted = map(_number, fit.loss)
        lines.append(
            f"Loss on {facts.held_back_tokens:,} held-back tokens: intact {_number(fit.intact_loss)}, "
            f"layers removed {removed}, fitted {fitted} nats per token."
        )
    else:
        lines.append(f"No loss on held-back tokens: {variant.no_loss}.")
    return lines + tell_warning(variant)


def _tell(pair: Pair) -> str:
    return " → ".join(map(_number, pair or (None, None)))


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4f}"
