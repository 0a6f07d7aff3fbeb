"""Without transformers' own reports, over what a command prints itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_inside: list[tuple[int, bool]] = []  # level and bars before, for each thread and call that is inside


@contextmanager
def silence() -> Iterator[None]:
    """Have transformers report nothing, on what it loads or builds.

    What was set before is set again when the last of all threads that are inside leaves.
    """
    from transformers.utils import logging as reports

    with _lock:
        now = reports.get_verbosity(), reports.is_progress_bar_enabled()
        _inside.append(_inside[0] if _inside else now)
        reports.set_verbosity(logging.CRITICAL)
        reports.disable_progress_bar()
    try:
        yield
    finally:
        with _lock:
            level, bars = _inside.pop()
            if not _inside:
                reports.set_verbosity(level)
                if bars:
                    reports.enable_progress_bar()
