"""The score stage of a run: all tasks on all variants of one model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import environment, records
from bench.matrix import Cell, Task, digest
from bench.resume import tasks_left
from bench.serving import device_name
from replaceme import models
from replaceme.editfile import load_edit
from replaceme.errors import InputError, OutputError
from replaceme.surgery import Edit

if TYPE_CHECKING:
    from bench.runner import Run
    from bench.scoring.answers import Answers
    from bench.scoring.checkpoint import CheckpointScorer
    from bench.scoring.one_pass import OnePass
    from bench.scoring.tasks import PreparedTask, TaskScore


class ScoreStage:
    """Scores the cells of one model that have a checkpoint.

    In one pass where the suite, the model and the task allow it, else checkpoint by checkpoint.
    """

    def __init__(self, run: Run, source: Path, cells: list[Cell]) -> None:
        score, prune = run.plan.suite.score, run.records[cells[0]].prune
        assert score is not None
        assert prune is not None
        self.run, self.source, self.cells, self.settings = run, source, cells, score
        self.model = cells[0].model
        self.saved_in = prune.dtype
        self.dtype = score.dtype or models.fast_dtype(self.saved_in, run.device)

    def execute(self) -> None:
        tasks = [task for task in self.run.plan.tasks if self._lacking(task)]
        if not tasks:
            return
        reasons = dict.fromkeys(tasks, "score.method is per-variant")
        if self.settings.method == "one-pass":
            reasons = self._in_one_pass(tasks)
        for cell in self.cells:
            left = [task for task in reasons if cell in self._lacking(task)]
            if left:
                self._one_by_one(cell, {task: reasons[task] for task in left})

    def _lacking(self, task: Task) -> list[Cell]:
        """The cells that a task is left to do for, and has not failed for in this run."""
        stage = f"score:{task.spec.task}"
        return [
            cell
            for cell in self.cells
            if task in tasks_left(self.run.records[cell], [task])
            and (cell, stage) not in self.run.failed
        ]

    def prepared(self, task: Task) -> PreparedTask:
        """A task with its requests, built once for all models."""
        from bench.scoring.tasks import PreparedTask

        if task not in self.run.prepared:
            self.run.prepared[task] = PreparedTask(task.spec, task.source, task.limit)
        return self.run.prepared[task]

    # ---- in one pass

    def _in_one_pass(self, tasks: list[Task]) -> dict[Task, str]:
        """Score in one pass; returns the tasks that cannot be, with the reason."""
        from bench.scoring.checkpoint import free_memory

        self.run.events.step(f"{self.model.name}: loading for scoring in one pass")
        try:
            scorer = self.load(self._answers())
        except OutputError:
            raise
        except Exception as error:
            self._fail(tasks, error)
            return {}
        self.run.events.say(f"{self.model.name}: scoring in {self.dtype}.")
        reasons = {}
        for task in tasks:
            try:
                if reason := scorer.obstacle or self.obstacle(task):
                    reasons[task] = reason
                else:
                    self._sweep(scorer, task)
            except OutputError:
                raise
            except Exception as error:
                self._fail([task], error)
        del scorer
        free_memory()
        if not any(self._lacking(task) for task in tasks if task not in reasons):
            self._answers_file.unlink(missing_ok=True)
        return reasons

    @models.enough_memory()
    def load(self, answers: Answers) -> OnePass:
        """The model with the edits of all its cells."""
        from bench.scoring.one_pass import OnePass

        return OnePass(
            self.source,
            {cell.stem: self._edit(cell) for cell in self.cells},
            saved_in=self.saved_in,
            dtype=self.dtype,
            device=self.run.device,
            batch_size=self.settings.batch_size,
            answers=answers,
            trust_remote_code=self.model.trust_remote_code,
        )

    @property
    def _answers_file(self) -> Path:
        weights = digest(self.cells[0].identity["model"])
        return self.run.out / "answers" / f"{self.model.name}-{weights[:8]}.jsonl"

    def _answers(self) -> Answers:
        """Those of an interrupted run, if they were computed alike."""
        from bench.scoring.answers import Answers

        scope = {"dtype": self.dtype, "device": device_name()}
        answers = Answers(self._answers_file, scope)
        answers.budget = self.settings.batch_tokens or answers.budget
        return answers

    def _edit(self, cell: Cell) -> Edit:
        return load_edit(self.run.edit_file(cell))[0] if cell.solver else Edit()

    def obstacle(self, task: Task) -> str | None:
        """Why a task cannot be scored in one pass, or ``None``."""
        from bench.scoring.one_pass import KINDS

        other = self.prepared(task).kinds - KINDS
        return f"the task asks for {' and '.join(sorted(other))}" if other else None

    @models.enough_memory()
    def _sweep(self, scorer: OnePass, task: Task) -> None:
        cells, prepared = self._lacking(task), self.prepared(task)
        name, task_name = self.model.name, task.spec.task
        self.run.events.step(f"{name}: {task_name}, {len(cells)} variants in one pass")
        self._verify(scorer, prepared, [cell.stem for cell in cells])
        seconds = scorer.answer(prepared, [cell.stem for cell in cells], self.run.events.share)
        found = {"method": "one-pass", "pass_seconds": seconds, "pass_variants": len(cells)}
        for cell in cells:
            score = partial(scorer.score, prepared, cell.stem)
            self.run.attempt(cell, f"score:{task_name}", partial(self._record, cell, task, score, found))

    def _verify(self, scorer: OnePass, prepared: PreparedTask, stems: list[str]) -> None:
        """Refuse answers that are not lm-eval's.

        Raises:
            InputError: they are not, for a few requests of a task.
        """
        from bench.scoring.verify import check, sample

        requests = sample(scorer.lm.requests(prepared.instances))
        found = check(scorer, scorer.most_changed(stems), requests, self.settings.batch_size)
        if not found.agree:
            raise InputError(
                f"one pass and lm-eval disagree by {found.difference:.2g} nats on {found.requests} "
                f"requests of {prepared.spec.task!r}, where lm-eval's own batches differ by "
                f"{found.spread:.2g}; set score.method to per-variant."
            )

    # ---- checkpoint by checkpoint

    def load_checkpoint(self, cell: Cell) -> CheckpointScorer:
        """lm-eval's own model of a cell's checkpoint."""
        from bench.scoring.checkpoint import CheckpointScorer

        return CheckpointScorer(
            self.run.checkpoint(cell, self.source),
            dtype=self.dtype,
            device=self.run.device,
            batch_size=self.settings.batch_size,
            trust_remote_code=cell.model.trust_remote_code,
        )

    def _one_by_one(self, cell: Cell, reasons: dict[Task, str]) -> None:
        from bench.scoring.checkpoint import free_memory

        self.run.events.step(f"{cell.name}: loading for scoring")
        try:
            scorer = self.load_checkpoint(cell)
        except Exception as error:
            self._fail([*reasons], error, [cell])
            return
        for task, reason in reasons.items():
            self.run.events.step(f"{cell.name}: {task.spec.task}")
            score = partial(self._scored_alone, task, scorer)
            found = {"method": "per-variant", "reason": reason}
            work = partial(self._record, cell, task, score, found)
            self.run.attempt(cell, f"score:{task.spec.task}", work)
        del scorer, score, work
        free_memory()

    def _scored_alone(self, task: Task, scorer: CheckpointScorer) -> TaskScore:
        return scorer.score(self.prepared(task))

    # ---- records

    def _record(
        self, cell: Cell, task: Task, scored: Callable[[], TaskScore], how: dict[str, Any]
    ) -> None:
        score, store, name = scored(), self.run.store, task.spec.task
        store.write_samples(cell.stem, store.read_samples(cell.stem) | {name: score.samples})
        self.run.records[cell].quality[name] = records.Task(
            identity=task.identity,
            primary=score.primary,
            average=task.spec.average,
            metrics={key: records.Metric(**metric) for key, metric in score.metrics.items()},
            items=score.items,
            version=score.version,
            num_fewshot=score.num_fewshot,
            seconds=score.seconds,
            dtype=self.dtype,
            **environment.peak_memory(),
            **how,
        )

    def _fail(self, tasks: list[Task], error: Exception, cells: list[Cell] | None = None) -> None:
        for task in tasks:
            for cell in cells or self._lacking(task):
                self.run.fail(cell, f"score:{task.spec.task}", error)
