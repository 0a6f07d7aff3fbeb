"""Where the tensors of a student are saved, and what they are rounded to there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replaceme.edit import Edit
from replaceme.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.architectures import Architecture
    from replaceme.io.saved import SavedLayers


@dataclass(frozen=True)
class Places:
    """The files that a student is made of.

    Attributes:
        architecture: of the student.
        saved: of the folder with these files.
        numbers: the number that each layer of the student has there.
    """

    architecture: Architecture
    saved: SavedLayers
    numbers: Sequence[int]

    def check(self, names: Iterable[str]) -> None:
        """Refuse tensors that the files hold under another name, or in parts of several dtypes.

        Raises:
            InputError: naming one.
        """
        for name in names:
            if self._dtype(name) is None:
                raise InputError(
                    f"{name} is trained, but the files hold it under another name or in parts; to train "
                    f"something else, such as mlp or lora, may do."
                )

    def rounded(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values in the dtypes that they are saved in."""
        import torch

        return {
            name: found.to(getattr(torch, self._dtype(name) or "float32"))
            for name, found in values.items()
        }

    def edit(self, values: dict[str, Tensor]) -> Edit:
        """What puts values into the files."""
        places = {name: self._place(name) for name in values}
        return Edit(
            weights={place: values[name] for name, place in places.items() if place},
            outside={name: values[name] for name, place in places.items() if not place},
        )

    def _place(self, name: str) -> tuple[int, str] | None:
        """Layer and tensor; ``None`` outside the layers."""
        found = self.architecture.split(name)
        return (self.numbers[found[1]], found[2]) if found else None

    def _dtype(self, name: str) -> str | None:
        place = self._place(name)
        return self.saved.dtype(*place) if place else self.saved.outside_dtype(name)
