"""Files that come with the package: inside it, or at the top of the repository in a clone."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent
REPOSITORY = PACKAGE.parent


def shipped_folder(installed: str, in_clone: str) -> Path:
    """The folder ``installed`` of the package, or ``in_clone`` of the repository."""
    inside = PACKAGE / installed
    return inside if inside.is_dir() else REPOSITORY / in_clone
