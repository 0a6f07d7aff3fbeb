"""Scoring all variants of a model in one pass."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.run.costs import pass_of
from bench.run.executors import Held, Job, cut
from bench.run.host.environment import name_device
from bench.run.stages.scores import Scores
from bench.suite.matrix import Cell
from bench.tasks.planned import PlannedTask, stage_of
from replaceme.io.editfile import load_edit

if TYPE_CHECKING:
    from bench.scoring.answers import Answers
    from bench.scoring.one_pass import OnePass
    from bench.scoring.tasks import PreparedTask
    from bench.scoring.trees import Request, Tree


class OnePassScoring:
    """Scores tasks on all cells of one model that lack them, as far as that can be done in one pass."""

    def __init__(self, scores: Scores) -> None:
        self.scores, self.ledger = scores, scores.ledger

    def score(self, tasks: list[PlannedTask]) -> dict[PlannedTask, str]:
        """Score tasks; returns those that cannot be scored in one pass, with the reason."""
        from bench.scoring.one_pass import OnePass

        name, reasons = self.scores.model.name, {}
        title = f"{name}: loading for scoring in one pass"
        with self.ledger.guard(self.scores.lacking_stages(tasks)):
            known = self._read_answers()
            obstacle = self.ledger.do(self._job(OnePass.explain_obstacle, title=title))
            self.ledger.progress.say(f"{name}: scoring in {self.scores.dtype}.")
            for task in tasks:
                with self.ledger.guard(self.scores.lacking_stages([task])):
                    if reason := obstacle or self.refuse_kinds(task) or self._sweep(task, known):
                        reasons[task] = reason
                        self.ledger.progress.learn_obstacle(self.scores.model, task)
        self.ledger.executor.let_go()
        return reasons

    def load(self) -> OnePass:
        """The model with the edits of all its cells, in this process."""
        return load_one_pass(*self._arguments)

    def refuse_kinds(self, task: PlannedTask) -> str | None:
        """Why what a task asks for is not answered in one pass, or ``None``."""
        from bench.scoring.answering import KINDS

        prepared = self.scores.prepare(task, self.scores.unloaded)
        written = {"generate_until"} if self.scores.texts else set()
        other = prepared.kinds - KINDS - written
        return f"the task asks for {' and '.join(sorted(other))}" if other else None

    @property
    def _arguments(self) -> tuple[Any, ...]:
        """Of :func:`load_one_pass`."""
        scores = self.scores
        files = {
            cell.stem: scores.checkpoints.edit_file(cell) if cell.solver else None
            for cell in scores.cells
        }
        settings = {
            "saved_in": scores.model.dtype,
            "dtype": scores.dtype,
            "device": self.ledger.device,
            "batch_size": scores.settings.batch_size,
            "trust_remote_code": scores.model.trust_remote_code,
            "memory": self.ledger.memory,
        }
        return scores.source, files, settings

    def _job(self, call: Any, *arguments: Any, title: str | None = None) -> Job:
        return Job(call, arguments, Held(load_one_pass, self._arguments), title)

    def _read_answers(self) -> Answers:
        """Those of an interrupted run, if they were computed alike."""
        from bench.scoring.answers import Answers

        scope = {"dtype": self.scores.dtype, "device": name_device(self.ledger.device)}
        answers = Answers(self.ledger.answers_file(self.scores.cells[0]), scope)
        answers.budget = self.scores.settings.batch_tokens or answers.budget
        return answers

    def _sweep(self, task: PlannedTask, known: Answers) -> str | None:
        """Score a task; returns why that cannot be, if so."""
        from bench.scoring.verify import sample, try_few

        cells, name = self.scores.list_lacking(task), self.scores.model.name
        unloaded = self.scores.unloaded
        prepared = self.scores.prepare(task, unloaded)
        self.ledger.progress.step(
            f"{name}: {task.name}, {len(cells)} variants in one pass", pass_of(self.scores.model, task)
        )
        requests = unloaded.lm.requests(prepared.instances)
        stems = [cell.stem for cell in cells]
        few = self._job(try_few, stems, sample(requests, unloaded.lengths), known.budget)
        sound, comparison = self.ledger.do(few)
        cells = self._drop_nan(task, cells, sound)
        if cells and not comparison.agree:
            reason = f"one pass {comparison.disagreement} from one request at a time"
            self.ledger.progress.say(f"{name}: {task.name} checkpoint by checkpoint: {reason}.")
            return reason
        start = time.perf_counter()
        self._answer(requests, sound, known)
        seconds = time.perf_counter() - start
        sound = [stem for stem in sound if not known.lists_nan(stem, requests)]
        for cell in self._drop_nan(task, cells, sound):
            self._score_cell(task, prepared, cell, known, seconds, len(cells))
        return None

    def _answer(self, requests: list[Request], stems: list[str], known: Answers) -> None:
        """Have the answers of some cells to all requests in ``known``."""
        from bench.scoring.one_pass import OnePass
        from bench.scoring.sweep import count_asked

        batches: list[list[Tree]]
        known.budget, batches = self.ledger.do(self._job(OnePass.arrange, requests, known.budget))
        lacking = known.list_lacking(stems, batches)
        total = sum(map(count_asked, batches))
        done = total - sum(count_asked(trees) for own in lacking.values() for trees in own)
        jobs = [
            self._job(OnePass.answer_batches, list(names), part, known.budget)
            for names, own in lacking.items()
            for part in cut(own, self.ledger.executor.parts)
        ]
        self.ledger.progress.share(done / total if total else 1.0)
        for _, outcome in self.ledger.run(jobs):
            asked, answers = outcome.get()
            known.keep(asked, answers)
            done += sum(len(request.tokens) for request in asked)
            self.ledger.progress.share(done / total)

    def _score_cell(
        self,
        task: PlannedTask,
        prepared: PreparedTask,
        cell: Cell,
        known: Answers,
        seconds: float,
        variants: int,
    ) -> None:
        with self.ledger.stage(cell, stage_of(task)):
            unloaded, texts = self.scores.unloaded, self.scores.read_texts(cell, prepared)
            score = unloaded.score(prepared, texts, partial(known.of, cell.stem))
            self.scores.record(
                cell,
                task,
                prepared,
                score,
                generation=self.scores.describe_texts(cell, prepared, unloaded.lm.generated),
                method="one-pass",
                pass_seconds=seconds,
                pass_variants=variants,
            )

    def _drop_nan(self, task: PlannedTask, cells: list[Cell], sound: list[str]) -> list[Cell]:
        """The cells that answer with numbers; a task fails for the others."""
        for cell in cells:
            if cell.stem not in sound:
                self.ledger.fail(cell, stage_of(task), self.scores.refuse_nan())
        return [cell for cell in cells if cell.stem in sound]


def load_one_pass(source: Path, edits: dict[str, Path | None], settings: dict[str, Any]) -> OnePass:
    """A model with the edits of all its cells.

    Args:
        edits: stem of a cell → the file with what was fitted; ``None``: nothing.
        settings: of :class:`bench.scoring.one_pass.OnePass`.
    """
    from bench.scoring.answers import Answers
    from bench.scoring.one_pass import OnePass
    from replaceme.edit import Edit

    found = {stem: load_edit(file)[0] if file else Edit() for stem, file in edits.items()}
    return OnePass(source, found, answers=Answers(), **settings)
