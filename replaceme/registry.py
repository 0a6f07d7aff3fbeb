"""Classes that are registered by lying in a folder: one file each, and no list of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any


def collect_classes(package: str, folders: Iterable[str], kind: type[Any]) -> dict[str, Any]:
    """The classes of a kind that the modules of a package define and name, by ``name``.

    Args:
        package: its dotted name.
        folders: its ``__path__``.
        kind: their base class; subclasses without a ``name`` of their own are left out.

    Returns:
        In the order of their ``rank``, those of the same rank by name.
    """
    classes: list[Any] = []
    for module in pkgutil.iter_modules(folders):
        content = vars(importlib.import_module(f"{package}.{module.name}"))
        classes += [
            value
            for value in content.values()
            if isinstance(value, type) and issubclass(value, kind)
            if value.__module__ == content["__name__"] and "name" in vars(value)
        ]
    return {cls.name: cls for cls in sorted(classes, key=lambda cls: (cls.rank, cls.name))}
