"""What a person sees while a suite runs: progress on stderr, third-party chatter in a log file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from replaceme.errors import OutputError


@contextmanager
def chatter_to(log: Path) -> Iterator[TextIO]:
    """Send file descriptors 1 and 2 to ``log``; yields a stream to the real stderr.

    At the level of descriptors, so that native code and subprocesses are caught as well.

    Raises:
        OutputError: the log file cannot be written.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        target = log.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise OutputError(f"{log} cannot be written: {error.strerror}.") from error
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with target, os.fdopen(os.dup(2), "w", encoding="utf-8", buffering=1) as stderr:
        os.dup2(target.fileno(), 1)
        os.dup2(target.fileno(), 2)
        try:
            yield stderr
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Remaining(ProgressColumn):
    def render(self, task: Task) -> Text:
        elapsed = task.finished_time or task.elapsed or 0.0
        text = duration(elapsed)
        if task.completed and task.total and not task.finished:
            text += f", about {duration(elapsed / task.completed * (task.total - task.completed))} left"
        return Text(text, style="dim")


class Reporter:
    """Progress: a live line on a terminal, else one line per step."""

    def __init__(self, stream: TextIO, steps: int) -> None:
        self._console = Console(file=stream, highlight=False)
        self._steps, self._done, self._start = steps, 0, time.monotonic()
        self._live, self._text = None, "starting"
        if self._console.is_terminal:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("[bold]{task.completed}/{task.total}"),
                BarColumn(bar_width=20),
                TextColumn("{task.description}"),
                _Remaining(),
                console=self._console,
            )
            self._task = self._live.add_task(self._text, total=steps)
            self._live.start()

    def step(self, text: str) -> None:
        """Say what runs now."""
        self._text = text
        if self._live:
            self._live.update(self._task, description=text)
        else:
            self._line(text)

    def share(self, share: float) -> None:
        """Say how much of the step is done."""
        if self._live:
            self._live.update(self._task, description=f"{self._text}, {share:.0%}")

    def done(self, steps: int = 1) -> None:
        """Count finished steps."""
        self._done += steps
        if self._live:
            self._live.advance(self._task, steps)

    def next_step(self, text: str) -> None:
        """The step that runs is done; say what runs now."""
        self.done()
        self.step(text)

    def say(self, text: str) -> None:
        """A line that stays, such as a warning or a failure."""
        self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._live:
            self._live.stop()

    def _line(self, text: str) -> None:
        elapsed = time.monotonic() - self._start
        left = elapsed / self._done * (self._steps - self._done) if self._done else None
        times = duration(elapsed) + (f", about {duration(left)} left" if left is not None else "")
        self.say(f"[{self._done}/{self._steps}] {text} ({times})")


@contextmanager
def progress(stream: TextIO, steps: int) -> Iterator[Reporter]:
    """A reporter that is closed when the context ends."""
    reporter = Reporter(stream, steps)
    try:
        yield reporter
    finally:
        reporter.close()
