"""A limit on the memory that a model may take: it is loaded whole where it fits, else layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from replaceme.allocator import keep_freed_memory, return_freed_memory
from replaceme.amounts import format_bytes
from replaceme.architectures import Architecture
from replaceme.errors import NoMemoryError
from replaceme.io.contents import stored_tensors
from replaceme.io.layers import HELD, open_layers, round_values
from replaceme.io.loading import checkpoint_dtype, default_device, load, load_tokenizer
from replaceme.io.tensorfile import FLOATS
from replaceme.logits import logit_bytes
from replaceme.room import Room

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WIDTHS = dict(FLOATS.values())


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model's tensors in memory, by the headers of its files.

    Attributes:
        outside: of embeddings, head, norms and the like.
        layer: of the largest decoder layer.
        layers: of all of them.
        gram: of the float64 Gram matrix of the widest input of a matrix of a layer.
        logits: of those that are held at once.
    """

    outside: int
    layer: int
    layers: int
    gram: int
    logits: int

    @classmethod
    def of(
        cls, folder: Path, architecture: Architecture, dtype: str | None = None, device: str = "cpu"
    ) -> Footprint:
        """Those of a model that is loaded in a dtype; ``None``: its own.

        Raises:
            InputError: a file is damaged.
        """
        width = WIDTHS[dtype or checkpoint_dtype(folder)]
        outside, layers, widest = 0, dict[int, int](), 0
        for name, stored in stored_tensors(folder).items():
            entry = stored.entry
            size = math.prod(entry.shape) * width if entry.dtype in FLOATS else stored.bytes
            if place := architecture.split(name):
                layers[place[1]] = layers.get(place[1], 0) + size
                widest = max(widest, *entry.shape[-2:]) if len(entry.shape) > 1 else widest
            else:
                outside += size
        inside = layers.values()
        return cls(outside, max(inside), sum(inside), 8 * widest**2, logit_bytes(device))

    @property
    def whole(self) -> int:
        return self.outside + self.layers

    def fits(self, memory: int) -> bool:
        """Whether the whole model does, with what comes and goes."""
        return self.whole + self.beside <= memory

    @property
    def beside(self) -> int:
        """What comes and goes: a Gram matrix, what is solved with it, logits."""
        return 2 * self.gram + self.logits

    @property
    def least(self) -> int:
        """What is in memory at once where layers are brought one by one."""
        return self.outside + HELD * self.layer


def load_within(
    folder: Path,
    architecture: Architecture,
    dtype: str | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    memory: int | None = None,
    cast: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Room]:
    """A model that takes no more than so much memory of its device, and where states find room.

    Args:
        device: a torch device; ``auto`` is one GPU where there is a limit.
        memory: bytes, on a CPU those of the whole process; ``None``: the model is loaded whole.
        cast: a dtype that all values are rounded to, before they are in ``dtype``.

    Raises:
        InputError: see :func:`replaceme.io.loading.load`.
        NoMemoryError: the limit is too small for two layers.
    """
    return_freed_memory()
    if memory is not None:
        device = default_device() if device == "auto" else device
        found, gauge = Footprint.of(folder, architecture, dtype, device), Gauge(device, memory)
        if not found.fits(memory - gauge.used()):
            return load_by_layers(
                folder, architecture, dtype, device, trust_remote_code, memory, cast, found.beside
            )
    model, tokenizer = load(folder, dtype, device, trust_remote_code)
    round_values(model.state_dict().values(), cast)
    if memory is None:
        keep_freed_memory()
    return model, tokenizer, Room()


def load_by_layers(
    folder: Path,
    architecture: Architecture,
    dtype: str | None,
    device: str,
    trust_remote_code: bool,
    memory: int,
    cast: str | None,
    passing: int,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Room]:
    """A model whose layers are brought one by one, and where states find room.

    Args:
        device, memory, cast: see :func:`load_within`.
        passing: bytes of what comes and goes beside the model.

    Raises:
        InputError: see :func:`replaceme.io.layers.open_layers`.
        NoMemoryError: the limit is too small for two layers.
    """
    return_freed_memory()
    device = default_device() if device == "auto" else device
    found, gauge = Footprint.of(folder, architecture, dtype, device), Gauge(device, memory)
    check_limit(found, memory, gauge.used(), str(folder))
    tokenizer, own = load_tokenizer(folder, trust_remote_code), dtype or checkpoint_dtype(folder)
    model = open_layers(folder, architecture, own, device, trust_remote_code, cast)
    gauge.reserve = found.layer + passing
    return model, tokenizer, Room(gauge.free)


def check_limit(found: Footprint, memory: int, used: int, name: str) -> None:
    """Refuse a limit that has no room for two layers.

    Args:
        used: bytes that are taken already.

    Raises:
        NoMemoryError: saying the least.
    """
    if (least := used + found.least) > memory:
        raise NoMemoryError(
            f"memory: {format_bytes(memory)} is too small for model {name}: two layers, embeddings and "
            f"head take {format_bytes(found.least)}, and {format_bytes(used)} are taken already; the "
            f"least is {format_bytes(least)}."
        )


class Gauge:
    """Measures the memory of a device that this process takes.

    Attributes:
        reserve: bytes to leave free for what comes and goes; grows with the largest that was seen.
    """

    def __init__(self, device: str, limit: int) -> None:
        self.device, self.limit, self.reserve = device, limit, 0
        self._level, self._peak = self.used(), self.peak()

    def used(self) -> int:
        if self.device == "cpu":
            return _status("VmRSS")
        import torch

        return int(torch.cuda.memory_allocated(self.device))

    def peak(self) -> int:
        if self.device == "cpu":
            return _status("VmHWM")
        import torch

        return int(torch.cuda.max_memory_allocated(self.device))

    def free(self) -> int:
        """Bytes that may be taken for long."""
        used, peak = self.used(), self.peak()
        if peak > self._peak:
            self.reserve = max(self.reserve, peak - self._level)
        self._level, self._peak = used, peak
        return self.limit - used - self.reserve


def _status(key: str) -> int:
    """Bytes that the system says of this process; 0 where it says none."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:")), 0)
