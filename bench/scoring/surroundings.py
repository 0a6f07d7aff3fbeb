"""What a task's code finds around it: as if it were alone in a process that does nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.scoring import reading
from replaceme.io.models import file_hash

Restore = Callable[[], None]


class Surroundings:
    """Keeps apart what tasks share in a process, and what they find from earlier processes.

    Inside :meth:`enter`, the working folder is the task's own; modules that lm-eval loads for its
    functions are loaded anew and belong to this task; and ``datasets`` keeps its transforms in a folder
    of this task, and knows local files by their content. A transform that another run left behind would
    stand in for a draw of random numbers, and what was read from a file, for another of the same time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._modules: dict[str, ModuleType] = {}
        self._opened: set[str] = set()
        self._transforms = tempfile.TemporaryDirectory(prefix="replaceme-")

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        others = self._leave()
        sys.modules.update(self._modules)
        try:
            with (
                contextlib.chdir(self._folder),
                _transforms_in(Path(self._transforms.name)),
                _files_by_content(self._opened),
                reading.listen(self._opened),
            ):
                yield
        finally:
            self._modules = self._leave()
            sys.modules.update(others)

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of the files below its folder that the task has read, by path from there."""
        modules = [str(module.__file__) for module in self._modules.values() if module.__file__]
        own = [Path(file) for file in sorted(modules) if Path(file).is_relative_to(self._folder)]
        found = dict.fromkeys([*own, *reading.beside(self._folder, self._opened)])
        return {file.relative_to(self._folder).as_posix(): file_hash(file) for file in found}

    def random_states(self) -> Restore:
        """What takes every random generator that the task draws from back to where it is now."""
        return _random_states([sys.modules[name] for name in sys.modules if self._of_a_task(name)])

    def _leave(self) -> dict[str, ModuleType]:
        """Forget the modules of tasks; returns them."""
        return {name: sys.modules.pop(name) for name in [*sys.modules] if self._of_a_task(name)}

    def _of_a_task(self, name: str) -> bool:
        """Whether lm-eval loaded a module from beside a task, or it lies in the task's folder."""
        module = sys.modules[name]
        file = getattr(module, "__file__", None)
        beside = isinstance(file, str) and Path(file).is_relative_to(self._folder)
        return beside or "__mtime__" in getattr(module, "__dict__", {})


@contextlib.contextmanager
def _transforms_in(folder: Path) -> Iterator[None]:
    """Have ``datasets`` look for, and keep, what ``map`` and its kin make in a folder."""
    from datasets import Dataset

    usual = Dataset._get_cache_file_path

    def path(dataset: Dataset, fingerprint: str) -> str:
        return str(folder / Path(usual(dataset, fingerprint)).name)

    Dataset._get_cache_file_path = path
    try:
        yield
    finally:
        Dataset._get_cache_file_path = usual


@contextlib.contextmanager
def _files_by_content(found: set[str]) -> Iterator[None]:
    """Have ``datasets`` tell local files apart by content, and not by their time of change.

    Args:
        found: gets them all, those too that are read from a cache.
    """
    from datasets import data_files

    usual = data_files._get_single_origin_metadata

    def origin(file: str, *arguments: Any, **options: Any) -> Any:
        if not Path(file).is_file():
            return usual(file, *arguments, **options)
        found.add(str(Path(file).absolute()))
        with Path(file).open("rb") as content:
            return (hashlib.file_digest(content, "sha256").hexdigest(),)

    data_files._get_single_origin_metadata = origin
    try:
        yield
    finally:
        data_files._get_single_origin_metadata = usual


def _random_states(modules: Iterable[ModuleType]) -> Restore:
    """What takes random generators back to where they are now: those that lm-eval seeds, and those that
    modules have of their own."""
    import numpy as np
    import torch

    known: list[tuple[Callable[[Any], Any], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
        (torch.set_rng_state, torch.get_rng_state()),
    ]
    if torch.cuda.is_available():
        known.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    for value in [value for module in modules for value in vars(module).values()]:
        if isinstance(value, random.Random):
            known.append((value.setstate, value.getstate()))
        elif isinstance(value, np.random.RandomState):
            known.append((value.set_state, value.get_state()))
        elif isinstance(value, np.random.Generator):
            known.append((partial(setattr, value.bit_generator, "state"), value.bit_generator.state))
        elif isinstance(value, torch.Generator):
            known.append((value.set_state, value.get_state()))

    def restore() -> None:
        for put, state in known:
            put(state)

    return restore
