"""Scoring all variants of a model in one pass."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from bench.run.costs import pass_of
from bench.run.host.environment import name_device
from bench.run.stages.scores import Scores
from bench.suite.matrix import Cell
from bench.tasks.planned import PlannedTask, stage_of
from replaceme.edit import Edit
from replaceme.io import loading
from replaceme.io.editfile import load_edit

if TYPE_CHECKING:
    from bench.scoring.answers import Answers
    from bench.scoring.one_pass import OnePass
    from bench.scoring.tasks import PreparedTask
    from bench.scoring.trees import Request


class OnePassScoring:
    """Scores tasks on all cells of one model that lack them, as far as that can be done in one pass."""

    def __init__(self, scores: Scores) -> None:
        self.scores, self.ledger = scores, scores.ledger

    def score(self, tasks: list[PlannedTask]) -> dict[PlannedTask, str]:
        """Score tasks; returns those that cannot be scored in one pass, with the reason."""
        from bench.scoring.checkpoint import free_memory

        name, reasons = self.scores.model.name, {}
        self.ledger.progress.step(f"{name}: loading for scoring in one pass")
        with self.ledger.guard(self.scores.lacking_stages(tasks)):
            scorer = self.load(self._read_answers())
            self.ledger.progress.say(f"{name}: scoring in {self.scores.dtype}.")
            for task in tasks:
                with self.ledger.guard(self.scores.lacking_stages([task])):
                    if reason := self.find_obstacle(task, scorer) or self._sweep(scorer, task):
                        reasons[task] = reason
                        self.ledger.progress.learn_obstacle(self.scores.model, task)
            del scorer
        free_memory()
        return reasons

    @loading.enough_memory()
    def load(self, answers: Answers) -> OnePass:
        """The model with the edits of all its cells."""
        from bench.scoring.one_pass import OnePass

        scores = self.scores
        return OnePass(
            scores.source,
            {cell.stem: self._load_edit(cell) for cell in scores.cells},
            saved_in=scores.model.dtype,
            dtype=scores.dtype,
            device=self.ledger.device,
            batch_size=scores.settings.batch_size,
            answers=answers,
            trust_remote_code=scores.model.trust_remote_code,
            memory=self.ledger.memory,
        )

    def find_obstacle(self, task: PlannedTask, scorer: OnePass) -> str | None:
        """Why a task cannot be scored in one pass, or ``None``."""
        from bench.scoring.answering import KINDS

        if scorer.obstacle:
            return scorer.obstacle
        prepared = self.scores.prepare(task, scorer)
        written = {"generate_until"} if self.scores.texts else set()
        other = prepared.kinds - KINDS - written
        return f"the task asks for {' and '.join(sorted(other))}" if other else None

    def _load_edit(self, cell: Cell) -> Edit:
        return load_edit(self.scores.checkpoints.edit_file(cell))[0] if cell.solver else Edit()

    def _read_answers(self) -> Answers:
        """Those of an interrupted run, if they were computed alike."""
        from bench.scoring.answers import Answers

        scope = {"dtype": self.scores.dtype, "device": name_device(self.ledger.device)}
        answers = Answers(self.ledger.answers_file(self.scores.cells[0]), scope)
        answers.budget = self.scores.settings.batch_tokens or answers.budget
        return answers

    @loading.enough_memory()
    def _sweep(self, scorer: OnePass, task: PlannedTask) -> str | None:
        """Score a task; returns why that cannot be, if so."""
        from bench.scoring.verify import sample

        cells, name = self.scores.list_lacking(task), self.scores.model.name
        prepared = self.scores.prepare(task, scorer)
        job = pass_of(self.scores.model, task)
        self.ledger.progress.step(f"{name}: {task.name}, {len(cells)} variants in one pass", job)
        requests = scorer.lm.requests(prepared.instances)
        few = sample(requests, scorer.sweep.lengths)
        if not (cells := self._try_few(scorer, task, cells, few)):
            return None
        if reason := self._compare(scorer, cells, few):
            self.ledger.progress.say(f"{name}: {task.name} checkpoint by checkpoint: {reason}.")
            return reason
        seconds = scorer.answer(prepared, [cell.stem for cell in cells], self.ledger.progress.share)
        for cell in self._drop_nan(scorer.sweep.known, task, cells, requests):
            self._score_cell(scorer, task, prepared, cell, seconds, len(cells))
        return None

    def _score_cell(
        self,
        scorer: OnePass,
        task: PlannedTask,
        prepared: PreparedTask,
        cell: Cell,
        seconds: float,
        variants: int,
    ) -> None:
        with self.ledger.stage(cell, stage_of(task)):
            score = scorer.score(prepared, cell.stem, self.scores.read_texts(cell, prepared))
            self.scores.record(
                cell,
                task,
                prepared,
                score,
                generation=self.scores.describe_texts(cell, prepared, scorer.lm.generated),
                method="one-pass",
                pass_seconds=seconds,
                pass_variants=variants,
            )

    def _compare(self, scorer: OnePass, cells: list[Cell], few: list[Request]) -> str | None:
        """How a few answers differ from those to one request at a time, if they do."""
        from bench.scoring.verify import check

        comparison = check(scorer, scorer.most_changed([cell.stem for cell in cells]), few)
        if comparison.agree:
            return None
        return f"one pass {comparison.disagreement} from one request at a time"

    def _try_few(
        self, scorer: OnePass, task: PlannedTask, cells: list[Cell], few: list[Request]
    ) -> list[Cell]:
        """The cells that answer a few requests with numbers."""
        from bench.scoring.answers import Answers
        from bench.scoring.sweep import Sweep

        sweep = Sweep(scorer.sweep.fork, Answers())
        sweep.known.budget = scorer.sweep.known.budget
        sweep.run([cell.stem for cell in cells], few)
        return self._drop_nan(sweep.known, task, cells, few)

    def _drop_nan(
        self, answers: Answers, task: PlannedTask, cells: list[Cell], requests: list[Request]
    ) -> list[Cell]:
        """The cells whose answers are numbers; a task fails for the others."""
        distinct, sound = [*dict.fromkeys(requests)], []
        for cell in cells:
            if any(isnan(answers.of(cell.stem, request).loglikelihood) for request in distinct):
                self.ledger.fail(cell, stage_of(task), self.scores.refuse_nan())
            else:
                sound.append(cell)
        return sound
