"""What a person sees while a suite runs: progress on stderr, third-party chatter in a log file."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from bench.render.escape import visible, visible_lines
from replaceme.errors import OutputError
from replaceme.report import Watcher

MINUTE = 60.0
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW  # not through a link


class _Forgiving(io.FileIO):
    """A file that loses what cannot be written: neither a full disk below the log nor a terminal that
    was closed may end a run."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            return super().write(data) or 0
        return len(data)


def _stream(descriptor: int) -> TextIO:
    raw = io.BufferedWriter(_Forgiving(descriptor, "w"))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="replace", line_buffering=True)


@contextmanager
def chatter_to(log: Path) -> Iterator[TextIO]:
    """Send what is written to stdout and stderr to ``log``; yields a stream to the real stderr.

    At the level of descriptors, so that native code and subprocesses are caught as well.

    Raises:
        OutputError: the log file cannot be written.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, APPEND, 0o644)
    except OSError as error:
        raise OutputError(f"{log} cannot be written: {error.strerror}.") from error
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with _stream(descriptor) as target, _stream(os.dup(2)) as stderr:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        try:
            with redirect_stdout(target), redirect_stderr(target):
                yield stderr
        finally:
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)


@contextmanager
def output() -> Iterator[Console]:
    """A console on standard output; if its reader has gone, as `head` does, the rest goes nowhere.

    Raises:
        OutputError: it cannot be written.
    """
    failure: BaseException | None = None
    try:
        yield Console(highlight=False)
        sys.stdout.flush()
    except OSError as error:
        failure = error
    except SystemExit as end:  # rich's answer to a closed pipe, with a code that means otherwise
        failure = end.__context__
        if not isinstance(failure, BrokenPipeError):
            raise
    if isinstance(failure, OSError):
        give_up_output(failure)


def give_up_output(error: OSError) -> None:
    """Send what is still to be printed nowhere, since standard output failed.

    Raises:
        OutputError: for another reason than that its reader has gone.
    """
    _give_up(1)
    if not isinstance(error, BrokenPipeError):
        raise OutputError(f"standard output cannot be written: {error.strerror or error}.")


def tell(text: str) -> None:
    """A line on standard error, if anybody can read it."""
    try:
        print(visible_lines(text), file=sys.stderr, flush=True)
    except OSError:
        _give_up(2)


def _give_up(descriptor: int) -> None:
    """Send what is still buffered nowhere: Python would try again at its end, and exit with 120."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def describe_time(elapsed: float, left: float | None) -> str:
    """``1:02:03, about 2:03 left``; without the rest where that is not known."""
    rest = "" if left is None else f", about {duration(left)} left"
    return duration(elapsed) + rest


class Reporter:
    """Progress for a person: a live line on a terminal, else a line per step, and one a minute."""

    def __init__(self, stream: TextIO, steps: int) -> None:
        self._console = Console(file=stream, highlight=False)
        self._steps, self._done, self._text = steps, 0, "starting"
        self._start = self._told = time.monotonic()
        self._live: Progress | None = None
        if self._console.is_terminal:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("[bold]{task.fields[count]}"),
                BarColumn(bar_width=20),
                TextColumn("{task.description}", markup=False),
                _Times(),
                console=self._console,
            )
            self._line = self._live.add_task(self._text, total=1.0, count=self._count, left=None)
            self._live.start()

    def step(self, text: str, left: float | None = None) -> None:
        """Say what runs now, and about how many seconds are left of everything."""
        self._text = visible(text)
        if self._live:
            self._show(self._text, left)
        else:
            self._print(self._text, left)

    def share(self, share: float, left: float | None = None) -> None:
        """Say how much of the step is done; not on a terminal, once a minute."""
        self.show(f"{self._text}, {share:.0%}", left)

    def show(self, text: str, left: float | None = None) -> None:
        """Say what runs at the moment; not on a terminal, once a minute."""
        if self._live:
            self._show(visible(text), left)
        elif time.monotonic() - self._told > MINUTE:
            self._print(visible(text), left)

    def count(self, steps: int = 1) -> None:
        """Count finished steps."""
        self._done += steps

    def next_step(self, text: str) -> None:
        """The step that runs is done; say what runs now."""
        self.count()
        self.step(text)

    def say(self, text: str) -> None:
        """A line that stays, such as a warning or a failure."""
        self._console.print(visible_lines(text), markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._live:
            self._live.stop()

    @property
    def _count(self) -> str:
        return f"{self._done}/{self._steps}"

    def _show(self, text: str, left: float | None) -> None:
        assert self._live
        elapsed = time.monotonic() - self._start
        share = self._done / max(self._steps, 1) if left is None else elapsed / max(elapsed + left, 1e-9)
        self._live.update(
            self._line, description=text, completed=share, count=self._count, left=left, told=elapsed
        )

    def _print(self, text: str, left: float | None) -> None:
        self._told = time.monotonic()
        self.say(f"[{self._count}] {text} ({describe_time(self._told - self._start, left)})")


class _Times(ProgressColumn):
    """The time so far, and what was left when it was last told less the time since."""

    def render(self, task: Task) -> Text:
        elapsed, left = task.elapsed or 0.0, task.fields["left"]
        if left is not None:
            left = max(0.0, left - (elapsed - task.fields["told"]))
        return Text(describe_time(elapsed, left), style="dim")


@contextmanager
def report_progress(stream: TextIO, steps: int) -> Iterator[Reporter]:
    """A reporter that is closed when the context ends."""
    reporter = Reporter(stream, steps)
    try:
        yield reporter
    finally:
        reporter.close()


def watch(reporter: Reporter) -> Watcher:
    """What tells a reporter of steps, each of which is done when the next begins."""
    starts = chain([reporter.step], repeat(reporter.next_step))
    return Watcher(lambda text: next(starts)(text), reporter.share)
