"""What cells and their files are called."""

from __future__ import annotations

import re


def cell_name(model: str, layers: int, label: str) -> str:
    """``MODEL/baseline`` or ``MODEL/N/SOLVER``."""
    return f"{model}/{layers}/{label}" if layers else f"{model}/{label}"


def file_name(text: str) -> str:
    """What a text is called as part of a file's name: at most 150 bytes, and no separators."""
    readable = re.sub(r"[^\w.]+", "-", text).strip("-").lower()
    return readable.encode()[:150].decode(errors="ignore")
