"""What killed runs leave in a result folder: half-written files and folders under hidden names."""

from __future__ import annotations

import shutil
from pathlib import Path

from replaceme.errors import OutputError

PATTERNS = (
    ".leaderboard.*-*",
    "records/.*.json-*",
    "samples/.*.jsonl.gz-*",
    "questions/.*.jsonl.gz-*",
    "responses/*/.*.jsonl.gz-*",
    "edits/.*.safetensors.part",
    "healing/.*.safetensors.part",
    "texts/.*.jsonl-*",
    "checkpoints/.*-*",
    "answers/requests-*",
    "logs/generation-*",
    "logs/serving-*",
    "logs/.seen-*",
    "logs/writing-*",
)


def remove(folder: Path) -> None:
    """Remove them; nobody may be writing in the folder.

    Raises:
        OutputError: one cannot be removed.
    """
    for path in [path for pattern in PATTERNS for path in folder.glob(pattern)]:
        discard(path)


def discard(path: Path) -> None:
    """Remove a file or a whole folder.

    Raises:
        OutputError: it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be removed: {error.strerror or error}.") from error
