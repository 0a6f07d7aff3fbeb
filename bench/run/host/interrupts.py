"""Ctrl-C and SIGTERM end a run, even where a library turns the exception they raise into its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_pending = False


@contextmanager
def catch_signals() -> Iterator[None]:
    """SIGTERM, which schedulers send, ends a run as Ctrl-C does; each unless handled or ignored."""
    global _pending
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    main = threading.current_thread() is threading.main_thread()
    mine = [number for number in usual if main and signal.getsignal(number) == usual[number]]
    run = os.getpid()

    def interrupt(number: int, _: Any) -> None:
        global _pending
        if os.getpid() == run:
            _pending = True
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a forked worker, which is ended in this way
        os.kill(os.getpid(), number)

    for number in mine:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        _pending = False
        for number in mine:
            signal.signal(number, usual[number])


def raise_pending() -> None:
    """End a run that was interrupted.

    Raises:
        KeyboardInterrupt: a signal came within :func:`catch_signals`, and what it raised got lost.
    """
    if _pending:
        raise KeyboardInterrupt
