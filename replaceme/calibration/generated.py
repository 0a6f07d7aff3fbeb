"""Text that the intact model writes itself: what can be said of it. What writes it is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from replaceme.amounts import Amount

GENERATED = "generated"  # as a data set: without any
COLUMN = "text"  # of the file that such a text lies in


class Generated(BaseModel):
    """Text that the intact model writes itself, token by token from its own predictions."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    tokens: Amount = Field(200_000, gt=0, description="tokens to write, such as 200k or 2M")
    temperature: float = Field(
        1.0, gt=0, description="of the sampling; 1: the model's own probabilities"
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="least probability that the tokens to draw from have together"
    )
    seed: int = Field(42, ge=0, description="of the sampling")

    _file: Path | None = PrivateAttr(None)

    @property
    def file(self) -> Path | None:
        """Where the text lies; ``None``: it is not written yet."""
        return self._file

    def written(self, file: Path) -> Generated:
        """The same with the text in a file."""
        found = self.model_copy()
        found._file = file
        return found


def name_generated(said: Any) -> Any:
    """What a section says; ``dataset: generated`` and ``generated: {…}`` each imply the other."""
    if not isinstance(said, dict):
        return said
    if said.get("generated") is not None and said.get("dataset") is None:
        return said | {"dataset": GENERATED}
    if said.get("dataset") == GENERATED and said.get("generated") is None:
        return said | {"generated": {}}
    return said
