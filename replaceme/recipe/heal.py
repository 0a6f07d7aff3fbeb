"""The step that trains a pruned model for a while: toward the intact one's predictions, or on data."""

from __future__ import annotations

from typing import Any, ClassVar

from replaceme.recipe.prune import CalibrationSettings
from replaceme.recipe.step import Step


class HealStep(Step):
    """Training of what the steps before have made.

    Attributes:
        version: changes when the same training gives other numbers.
        training: all settings that change numbers.
        text: what is trained on; ``None``: the calibration text.
    """

    kind: ClassVar[str] = "heal"
    verb: ClassVar[str] = "heal"

    version: int = 1
    training: dict[str, Any]
    text: CalibrationSettings | None = None

    def settings(self) -> dict[str, Any]:
        return {**(self.text.settings() if self.text else {}), **self.training}

    def whole(self) -> HealStep:
        """The same training to its end."""
        training = {key: value for key, value in self.training.items() if key != "until"}
        return self.model_copy(update={"training": training})

    def words(self) -> str:
        tokens, seconds = self.training.get("tokens"), self.training.get("seconds")
        budget = f"{tokens:,} tokens" if tokens else f"{seconds:g} seconds"
        if until := self.training.get("until"):
            budget = f"{until:,} of {budget}"
        objective = self.training.get("objective")  # not said of distillation
        how = ", ".join(filter(None, [objective, self.training["train"]]))
        return f"healed ({how}) on {budget}"
