"""The formats of a leaderboard: a file each, whose name is the format's.

A file has ``render(table)``, which gives the text, and perhaps ``SUFFIX``, of the files that hold it. A
format is loaded when it is used.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.leaderboard.table import Table

Render = Callable[["Table"], str]


class _Formats(Mapping[str, Render]):
    """Name → what renders a table."""

    def __iter__(self) -> Iterator[str]:
        return (module.name for module in pkgutil.iter_modules(__path__))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Render:
        if name not in [*self]:
            raise KeyError(name)
        render: Render = _module(name).render
        return render


FORMATS = _Formats()


def suffix(name: str) -> str:
    """Of the files that hold a format."""
    found: str = getattr(_module(name), "SUFFIX", name)
    return found


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
