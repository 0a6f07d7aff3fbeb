"""How full a disk is, and whether an error says that it is full."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "os error 28")


def free(folder: Path) -> int:
    """Bytes free for us where a folder is, or will be."""
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def describe_full(error: BaseException) -> str | None:
    """What an error says of a full disk, where that is what caused it, however it was wrapped."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        if isinstance(cause, OSError) and cause.errno in FULL:
            where = f"{cause.filename}: " if cause.filename else ""
            return f"{where}{cause.strerror}"
        if text := next((text for text in FULL_TEXTS if text in str(cause)), None):
            return text
        cause = cause.__cause__ or cause.__context__
    return None
