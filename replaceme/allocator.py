"""What becomes of memory that is freed: on GPUs, and by the C library where that is glibc."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # mallopt's names: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


def keep_freed_memory() -> None:
    """Have large blocks that are freed kept, from now on, for the next batch needs them again.

    They would be given back to the system, which takes a page fault for every 4 kB of the next.
    """
    _set(2**30, 2**31 - 1)


def return_freed_memory() -> None:
    """Have what is freed, and will be from now on, given back to the system, by whose count it is
    taken."""
    gc.collect()  # a model that nobody uses any more lives on in circles of references
    _set(2**20, 2**20)
    if hasattr(library := _library(), "malloc_trim"):
        library.malloc_trim(0)


def free_memory() -> None:
    """Give back what models used that nothing refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _set(mmap_threshold: int, trim_threshold: int) -> None:
    if hasattr(library := _library(), "mallopt"):
        library.mallopt(MMAP_THRESHOLD, mmap_threshold)
        library.mallopt(TRIM_THRESHOLD, trim_threshold)


def _library() -> Any:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
