"""Where a run stands; what tells of it is where an interrupted run ends."""

from __future__ import annotations

from bench.console import Reporter
from bench.run.host import interrupts


class Progress:
    """What a run does now and how much of it is done, told to a person if there is one.

    Every method raises ``KeyboardInterrupt`` where a signal came and the exception it raised got lost.
    """

    def __init__(self, reporter: Reporter | None = None) -> None:
        self._reporter = reporter

    def step(self, text: str) -> None:
        """Say what runs now."""
        interrupts.check()
        if self._reporter:
            self._reporter.step(text)

    def share(self, share: float) -> None:
        """Say how much of it is done, from 0 to 1."""
        interrupts.check()
        if self._reporter:
            self._reporter.share(share)

    def count(self, stages: int) -> None:
        """Count stages that are done or failed."""
        interrupts.check()
        if self._reporter:
            self._reporter.done(stages)

    def say(self, text: str) -> None:
        """A line that stays, such as a warning or a failure."""
        interrupts.check()
        if self._reporter:
            self._reporter.say(text)
