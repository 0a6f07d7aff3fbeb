"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes
import gc
import sys


def return_freed_memory() -> None:
    """Have glibc give back to the system what is freed and not in use, which counts as taken."""
    gc.collect()  # a model that nobody uses any more lives on in circles of references
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def keep_freed_memory() -> None:
    """Have glibc keep large blocks that are freed, from now on, for the next batch needs them again.

    It would give them back to the system, which takes a page fault for every 4 kB of the next.
    """
    mmap_threshold, trim_threshold, most = -3, -1, 2**31 - 1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, most)
