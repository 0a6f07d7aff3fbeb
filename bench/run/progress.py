"""Where a run stands: what it does, and how long the rest takes. What tells of it may end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from threading import get_ident
from typing import TYPE_CHECKING

from bench.console import Reporter
from bench.run.costs import Costs
from bench.run.forecast import Forecast, Key
from bench.run.host import interrupts
from bench.run.sizes import ModelSize, TaskSize
from bench.suite.matrix import Cell
from bench.suite.suite import ModelSpec
from bench.tasks.planned import PlannedTask
from replaceme.checkpoint import Checkpoint

if TYPE_CHECKING:
    from bench.scoring.tasks import PreparedTask


class Progress:
    """What a run does now and how much of it is done, told to a person if there is one.

    What tells of it raises ``KeyboardInterrupt`` where a signal came and what that raised got lost.
    """

    def __init__(
        self, costs: Costs, workers: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.reporter: Reporter | None = None
        self._workers = workers
        self._at_hand: dict[Hashable, tuple[str, float | None]] = {}  # what runs in each lane
        self._costs = costs
        self._forecast = Forecast(clock)
        self._forecast.expect(costs.list_jobs())

    # ---- for a person

    def step(self, text: str, job: Key | None = None, lane: Hashable = None) -> None:
        """Say what runs now, and which job that is.

        Args:
            lane: what runs beside it has others; ``None``: that of this thread.
        """
        interrupts.raise_pending()
        lane = lane or get_ident()
        self._forecast.begin(job, lane)
        self._at_hand[lane] = text, None
        if self.reporter:
            self.reporter.step(text, self._forecast.estimate_left())
            if self._workers > 1:
                self._show()

    def share(self, share: float, lane: Hashable = None) -> None:
        """Say how much of it is done, from 0 to 1."""
        interrupts.raise_pending()
        lane = lane or get_ident()
        self._forecast.tell(share, lane)
        if self.reporter and lane in self._at_hand:
            self._at_hand[lane] = self._at_hand[lane][0], share
            self._show()

    def rest(self, lane: Hashable = None) -> None:
        """What runs in a lane is done, and nothing follows."""
        lane = lane or get_ident()
        self._forecast.begin(None, lane)
        self._at_hand.pop(lane, None)

    def count(self, stages: int) -> None:
        """Count stages that are done or failed."""
        interrupts.raise_pending()
        if self.reporter:
            self.reporter.count(stages)

    def say(self, text: str) -> None:
        """A line that stays, such as a warning or a failure."""
        interrupts.raise_pending()
        if self.reporter:
            self.reporter.say(text)

    def _show(self) -> None:
        assert self.reporter
        parts = [
            text if share is None else f"{text}, {share:.0%}" for text, share in self._at_hand.values()
        ]
        workers = f"{self._workers} workers: " if self._workers > 1 else ""
        self.reporter.show(workers + "; ".join(parts), self._forecast.estimate_left())

    # ---- for the forecast

    def learn_model(self, model: ModelSpec, checkpoint: Checkpoint) -> None:
        """A model is on this machine now."""
        self._costs.sizes[model] = ModelSize.of(checkpoint)
        self.relist()

    def learn_text(self, model: ModelSpec, tokens: int) -> None:
        """The calibration text of a model has been read."""
        self._costs.tokens[model] = tokens
        self.relist()

    def learn_block(self, cell: Cell, start: int) -> None:
        """The first layer that is removed has been chosen."""
        self._costs.starts[cell] = start

    def learn_task(self, task: PlannedTask, built: PreparedTask) -> None:
        """The requests of a task have been built."""
        self._costs.tasks[task] = TaskSize.of(built)
        self.relist()

    def learn_left(self, model: ModelSpec, shares: Mapping[PlannedTask, float]) -> None:
        """So much of each task is left to be answered in one pass; from 0 to 1."""
        self._costs.left.update({(model, task): share for task, share in shares.items()})
        self.relist()

    def learn_obstacle(self, model: ModelSpec, task: PlannedTask) -> None:
        """A task cannot be scored in one pass."""
        self._costs.apart.add((model, task))
        self.relist()

    def relist(self) -> None:
        """See again what is left."""
        self._forecast.expect(self._costs.list_jobs())
