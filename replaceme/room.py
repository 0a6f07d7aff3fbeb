"""Where states wait between two layers: in memory, as far as a budget goes, and else in files."""

from __future__ import annotations

import glob
import os
import platform
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from replaceme.errors import OutputError
from replaceme.io.models import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import Tensor


@dataclass
class Room:
    """What a walk may hold, see :mod:`replaceme.traversal`.

    Attributes:
        free: says how many bytes of states may still be put where the model computes; ``None``: any.
        chunk: batches that pass a layer together; ``None``: one where the model is in memory, else all.
    """

    free: Callable[[], int] | None = None
    chunk: int | None = None
    _numbers: Iterator[int] = field(default_factory=count)
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def put(self, states: Tensor) -> Kept:
        """Keep states for as long as somebody has what is returned.

        Raises:
            OutputError: there is no place for them on disk.
        """
        if self.free is None or states.nbytes <= self.free():
            return _InMemory(states, states.device)
        if states.device.type != "cpu" and states.nbytes <= free_in_main_memory():
            return _InMemory(states.cpu(), states.device)
        try:
            self._folder = self._folder or _make_folder()
        except OSError as error:
            raise OutputError(f"{cache_folder()} cannot be written: {error.strerror}.") from error
        return _InFile(self._folder, str(next(self._numbers)), states)


def _make_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder of this process in the cache, without those that killed ones have left there."""
    import psutil

    cache, own = cache_folder(), f"states-{platform.node()}-"
    cache.mkdir(parents=True, exist_ok=True)
    for folder in cache.glob(f"{glob.escape(own)}*"):
        if not psutil.pid_exists(int(folder.name.removeprefix(own).partition("-")[0])):
            shutil.rmtree(folder, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{own}{os.getpid()}-", dir=cache)


def free_in_main_memory() -> int:
    """Bytes that can be taken without pressing others out, a tenth of the machine's left alone."""
    import psutil

    memory = psutil.virtual_memory()
    return int(memory.available - memory.total // 10)


class Kept(Protocol):
    """States that wait."""

    def read(self) -> Tensor:
        """The states, in the dtype and on the device that they were on."""
        ...


class _InMemory:
    def __init__(self, states: Tensor, device: torch.device) -> None:
        self._states, self._device = states, device

    def read(self) -> Tensor:
        return self._states.to(self._device)


class _InFile:
    def __init__(self, folder: tempfile.TemporaryDirectory[str], name: str, states: Tensor) -> None:
        import torch

        self._folder = folder  # which is there as long as somebody has it
        self._file = file = Path(folder.name) / name
        self._shape = states.shape
        self._dtype, self._device = states.dtype, states.device
        weakref.finalize(self, file.unlink, missing_ok=True)
        try:
            states.contiguous().cpu().flatten().view(torch.uint8).numpy().tofile(file)
        except OSError as error:
            raise OutputError(
                f"{states.nbytes:,} bytes of hidden states find no place in {file.parent}; free some "
                f"there, set REPLACEME_CACHE to a folder on a larger disk, or allow more memory."
            ) from error

    def read(self) -> Tensor:
        import numpy as np
        import torch

        raw = torch.from_numpy(np.fromfile(self._file, dtype=np.uint8))
        return raw.view(self._dtype).reshape(self._shape).to(self._device)
