"""One run at a time in a result folder: a lock that says who holds it, and ends with its holder.

The kernel lets go of the lock when its process dies, however it dies. The file says who that was, for
people, and for file systems whose locks are not seen on other machines.

Not of a library: flock, which filelock takes, is handed on to forked workers and outlives a killed run
with them, and an existence lock says nothing of a process on another machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from replaceme.errors import InputError, OutputError

NAME = ".lock"
SAME_START = 5.0  # seconds by which two readings of a process's start may differ


@contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a result folder for as long as the context lasts; makes the folder.

    Raises:
        InputError: another run holds it, or may hold it on another machine.
        OutputError: the folder cannot be written.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _take(path)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}.") from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(file)


def _take(path: Path) -> int:
    """A descriptor of the lock file that holds the lock."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            if not _try_lock(file):
                raise _refuse(path, _read_holder(file))
            if not _is_at(path, file):  # its holder removed it while we opened it
                os.close(file)
                continue
            if (holder := _read_holder(file)) and _may_live(holder):
                raise _refuse(path, holder)
            _write_holder(file)
            return file
        except BaseException:
            os.close(file)
            raise


def _try_lock(file: int) -> bool:
    """Whether no other process holds the lock; true where the file system has none.

    A lock of this kind is not handed on to forked processes, which may outlive a killed run.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _read_holder(file: int) -> dict[str, Any]:
    """Who wrote the lock; empty if it was killed before it could."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write_holder(file: int) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": platform.node(), "since": now}
    holder["started"] = psutil.Process().create_time()
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(holder).encode(), 0)
    os.fsync(file)


def _may_live(holder: dict[str, Any]) -> bool:
    """Whether the process that wrote a lock may still run; of another machine that is not known."""
    if holder.get("host") != platform.node():
        return True
    try:
        started = psutil.Process(holder["pid"]).create_time()
        return bool(abs(started - holder["started"]) < SAME_START)
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _refuse(path: Path, holder: dict[str, Any]) -> InputError:
    if not holder:
        return InputError(f"another run is using {path.parent}; wait for it, or choose another --out.")
    who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
    if holder.get("host") == platform.node():
        advice = "wait for it, or choose another --out"
    else:
        advice = f"if that is over, remove {path}; else wait for it, or choose another --out"
    return InputError(f"another run is using {path.parent}: {who}; {advice}.")
