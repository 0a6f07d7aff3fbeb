"""What the ways of scoring the cells of one model share, and the scores in their records."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from bench import records, transcripts
from bench.run.checkpoints import Checkpoints
from bench.run.host import environment
from bench.run.ledger import Ledger, Stage
from bench.run.stages.requests import TaskRequests
from bench.serving import engine_version
from bench.suite.matrix import Cell
from bench.tasks.planned import PlannedTask, stage_of
from replaceme.errors import InputError
from replaceme.io import loading

if TYPE_CHECKING:
    from bench.run.stages.requests import Scorer
    from bench.scoring.generation.launch import Outcome
    from bench.scoring.generation.texts import Text, Texts
    from bench.scoring.tasks import PreparedTask, TaskScore
    from bench.scoring.unloaded import UnloadedScorer

T = TypeVar("T")


class Scores:
    """The scores of the cells of one model that have a checkpoint.

    Attributes:
        source: folder of the model.
        settings: the suite's ``score`` section.
        dtype: computed in.
        texts: that vLLM wrote; ``None``: it was not asked.
        outcome: what became of them.
    """

    texts: Texts | None = None
    outcome: Outcome | None = None

    def __init__(
        self,
        ledger: Ledger,
        checkpoints: Checkpoints,
        requests: TaskRequests,
        source: Path,
        cells: list[Cell],
    ) -> None:
        score, prune = ledger.plan.suite.score, ledger.records[cells[0]].prune
        assert score is not None
        assert prune is not None
        self.ledger, self.checkpoints, self.requests = ledger, checkpoints, requests
        self.source, self.cells, self.settings = source, cells, score
        self.model = cells[0].model
        self.dtype = score.dtype or loading.fast_dtype(prune.dtype, ledger.device)

    def list_lacking(self, task: PlannedTask) -> list[Cell]:
        """The cells that a task is still to do for."""
        return [cell for cell in self.cells if stage_of(task) in self.ledger.list_due(cell)]

    def lacking_stages(self, tasks: list[PlannedTask]) -> Iterator[Stage]:
        """The stages that score some tasks, of the cells that lack them when this is read."""
        for task in tasks:
            for cell in self.list_lacking(task):
                yield cell, stage_of(task)

    def prepare(self, task: PlannedTask, scorer: Scorer | None) -> PreparedTask:
        """A task with its requests for this model."""
        return self.requests.build(task, scorer, self.cells)

    @cached_property
    def unloaded(self) -> UnloadedScorer:
        """The model without its weights."""
        from bench.scoring.unloaded import UnloadedScorer

        return UnloadedScorer(self.source, self.model.trust_remote_code)

    def read_texts(self, cell: Cell, prepared: PreparedTask) -> list[Text] | None:
        """What vLLM wrote for a cell to a task's requests; ``None``: it was not asked."""
        if self.texts is None or "generate_until" not in prepared.kinds:
            return None
        return self.texts.of(cell.stem, prepared.requests)

    def describe_texts(
        self, cell: Cell, prepared: PreparedTask, texts: list[Text], reason: str | None = None
    ) -> records.Generation | None:
        """What to record of the texts of a cell; ``None`` where there are none.

        Args:
            reason: why vLLM did not write them, where that is so.
        """
        if not texts:
            return None
        distinct = [text.distinct for text in texts if text.distinct is not None]
        like = {
            "texts": len(texts),
            "cut_off": fmean(text.cut_off for text in texts),
            "mean_tokens": fmean(text.tokens for text in texts),
            "distinct_4grams": fmean(distinct) if distinct else None,
        }
        if self.outcome is None:
            package = version("transformers")
            how = {"engine": "transformers", "engine_version": package, "reason": reason}
            return records.Generation(**like, **how)
        asked = (cell.stem, prepared.requests)
        return records.Generation(
            **like,
            engine="vllm",
            engine_version=engine_version(),
            truncated=self.outcome.truncated.get(asked),
            seconds=self.outcome.seconds.get(asked),
            weights=self.outcome.loaded.get(cell.stem),
            reason=self.outcome.afresh.get(cell.stem),
        )

    def refuse_nan(self) -> InputError:
        """The error of a model that answers with NaN."""
        return InputError(
            f"the model answers with NaN; its weights hold NaN or infinity, or its states overflow in "
            f"{self.dtype} (score.dtype)."
        )

    def record(
        self, cell: Cell, task: PlannedTask, prepared: PreparedTask, score: TaskScore, **how: Any
    ) -> None:
        """Put a score into a cell's record, and its items and transcript into their files.

        Args:
            how: method, and what it says of itself, as in :class:`bench.records.Task`; peak memory where
                another process has scored.
        """
        store = self.ledger.store
        samples = store.read_samples(cell.stem) | {task.name: score.samples}
        store.write_samples(cell.stem, self._sort(samples))
        if score.transcript:
            transcripts.write(store.folder, cell.stem, task.name, score.transcript)
        quality = self.ledger.records[cell].quality
        quality[task.name] = records.Task(
            identity=task.identity,
            primary=score.primary,
            average=task.spec.average,
            column=task.column,
            metrics={key: records.Metric(**metric) for key, metric in score.metrics.items()},
            items=score.items,
            version=score.version,
            num_fewshot=score.num_fewshot,
            seconds=score.seconds,
            dtype=self.dtype,
            requests=prepared.requests,
            files=prepared.files,
            divergence=score.divergence,
            sampled_batch=self.settings.batch_size if prepared.samples else None,
            **environment.peak_memory() | how,
        )
        self.ledger.records[cell].quality = self._sort(quality)

    def _sort(self, found: dict[str, T]) -> dict[str, T]:
        """What is known of tasks in the order of the suite, however they came."""
        order = {task.name: number for number, task in enumerate(self.ledger.plan.tasks)}
        return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))
