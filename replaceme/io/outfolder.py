"""The folder that a checkpoint is written to: what may be replaced, and how it appears whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replaceme.errors import InputError, OutputError

PROVENANCE = "replaceme.json"
MARKS = ("config.json", PROVENANCE)


def check_free(out: Path, overwrite: bool) -> None:
    """Refuse an output folder that may not be written.

    Raises:
        InputError: it is a file, the current folder or a parent of it, or not empty; with ``overwrite``
            a folder that holds a checkpoint is fine.
    """
    folder = out.resolve()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{out} is a file; name a folder.")
    if Path.cwd().is_relative_to(folder):
        raise InputError(f"{out} is the current folder or one above it; name another folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not any((folder / mark).is_file() for mark in MARKS):
        raise InputError(
            f"{out} exists and is not empty, and without {' or '.join(MARKS)} it is no checkpoint that "
            f"could be replaced; name another folder."
        )
    if not overwrite:
        raise InputError(f"{out} exists and is not empty; name another folder, or use --overwrite.")


def check_apart(source: Path, out: Path) -> None:
    """Refuse an output folder that is, or holds, the folder of the intact model."""
    if source.resolve().is_relative_to(out.resolve()):
        raise InputError(f"{out} holds the intact model, which would be lost; name another folder.")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its place when the context ends well.

    What stood there is removed last. A symbolic link stays one: the folder it means is replaced.

    Raises:
        OutputError: the folder cannot be written.
    """
    target, part = out.resolve(), None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        part.chmod(0o755)
        yield part
        _swap(part, target)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _swap(part: Path, target: Path) -> None:
    old = part.with_name(f"{part.name}-old")
    try:
        if target.exists():
            target.rename(old)
        part.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
