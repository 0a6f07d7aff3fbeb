"""Scoring all variants of a model in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.run.costs import check_of, pass_of
from bench.run.executors import Held, Job, balance, cut
from bench.run.forecast import Key
from bench.run.ledger import Stage
from bench.run.stages.pool import Asked, Pool, Portion
from bench.run.stages.scores import Scores
from bench.suite.matrix import Cell
from bench.tasks.planned import PlannedTask, stage_of
from replaceme.io.editfile import load_edit

if TYPE_CHECKING:
    from bench.scoring.answers import Answers
    from bench.scoring.one_pass import OnePass
    from bench.scoring.trees import Request
    from bench.scoring.verify import Agreement


class OnePassScoring:
    """Scores tasks on all cells of one model that lack them, as far as that can be done in one pass."""

    def __init__(self, scores: Scores) -> None:
        self.scores, self.ledger = scores, scores.ledger
        self.reasons: dict[PlannedTask, str] = {}  # why tasks are left to others

    def score(self, tasks: list[PlannedTask]) -> dict[PlannedTask, str]:
        """Score tasks; returns those that cannot be scored in one pass, with the reason."""
        from bench.scoring.one_pass import OnePass

        name = self.scores.model.name
        self.reasons = {}
        with self.ledger.guard(self._lacking_stages(tasks)):
            known = self._read_answers()
            title = f"{name}: loading for scoring in one pass"
            obstacle = self.ledger.do(self._job(OnePass.explain_obstacle, title=title))
            self.ledger.progress.say(f"{name}: scoring in {self.scores.dtype}.")
            if asked := [one for task in tasks if (one := self._ask(task, obstacle))]:
                self._sweep(Pool(known, asked), known)
        self.ledger.executor.let_go()
        return self.reasons

    def _lacking_stages(self, tasks: list[PlannedTask]) -> Iterator[Stage]:
        """The stages that are left to be done in one pass when this is read."""
        for task in tasks:
            if task not in self.reasons:
                yield from self.scores.lacking_stages([task])

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

    @cached_property
    def _held(self) -> Held:
        return Held(load_one_pass, self._arguments)

    def _job(self, call: Any, *arguments: Any, title: str, cost: Key | None = None) -> Job:
        return Job(call, arguments, self._held, title, cost)

    def _read_answers(self) -> Answers:
        """Those of an interrupted run, if they were computed alike."""
        from bench.scoring.answers import Answers

        scope = {"dtype": self.scores.dtype, "device": self.ledger.machine.device}
        answers = Answers(self.ledger.answers_file(self.scores.cells[0]), scope)
        answers.budget = self.scores.settings.batch_tokens or answers.budget
        return answers

    def _ask(self, task: PlannedTask, obstacle: str | None) -> Asked | None:
        """What a task asks of the cells that lack it; ``None`` where that is not done in one pass."""
        with self.ledger.guard(self.scores.lacking_stages([task])):
            if reason := obstacle or self.refuse_kinds(task):
                self._leave(task, reason)
                return None
            prepared = self.scores.prepare(task, self.scores.unloaded)
            requests = [*dict.fromkeys(self.scores.unloaded.lm.requests(prepared.instances))]
            return Asked(task, prepared, self.scores.list_lacking(task), requests)
        return None

    def _leave(self, task: PlannedTask, reason: str) -> None:
        """Leave a task to others."""
        self.reasons[task] = reason
        self.ledger.progress.learn_obstacle(self.scores.model, task)

    def _sweep(self, pool: Pool, known: Answers) -> None:
        """Score tasks that may be answered in one pass, but for those where a few answers differ."""
        from bench.scoring.one_pass import OnePass
        from bench.scoring.trees import count_tokens
        from bench.scoring.verify import sample

        title = f"{self.scores.model.name}: arranging what is asked"
        arrange = self._job(OnePass.arrange, pool.divide(), known.budget, title=title)
        known.budget, arranged = self.ledger.do(arrange)
        lengths = self.scores.unloaded.lengths
        few = {one: sample(one.requests, lengths) for one in pool.asked}
        parts = balance(pool.asked, self.ledger.executor.workers, lambda one: count_tokens(few[one]))
        checked = [*self._try(parts, few, known)]
        portions = pool.portion(arranged, [one for one in pool.asked if one in checked])
        self._tell_left(portions, pool.asked)
        self._answer(pool, portions, known)
        for one in pool.pop():
            with self.ledger.guard(self._stages(one)):
                raise RuntimeError("not all answers came")

    def _try(
        self, parts: Sequence[list[Asked]], few: dict[Asked, list[Request]], known: Answers
    ) -> Iterator[Asked]:
        """Have all cells answer a few requests of each task; gives the tasks that can be answered in one
        pass, by the cells that answer with numbers. What fails among others is tried by itself."""
        from bench.scoring.verify import try_few

        title, cost = f"{self.scores.model.name}: trying a few requests", check_of(self.scores.model)
        jobs = [
            self._job(
                try_few, [(one.stems, few[one]) for one in part], known.budget, title=title, cost=cost
            )
            for part in parts
        ]
        again: list[list[Asked]] = []
        for number, outcome in self.ledger.run(jobs):
            part = parts[number]
            if outcome.error and len(part) > 1:
                again += [[one] for one in part]
                continue
            with self.ledger.guard(self._stages(*part)):
                for one, (sound, comparison) in zip(part, outcome.get(), strict=True):
                    self._drop_nan(one, sound)
                    if one.cells and self._judge(one, comparison):
                        yield one
        if again:
            yield from self._try(again, few, known)

    def _judge(self, one: Asked, comparison: Agreement) -> bool:
        """Whether a task is answered in one pass; where it is not, it is left to others."""
        if not comparison.agree:
            reason = f"one pass {comparison.disagreement} from one request at a time"
            self.ledger.progress.say(
                f"{self.scores.model.name}: {one.name} checkpoint by checkpoint: {reason}."
            )
            self._leave(one.task, reason)
        return comparison.agree

    def _tell_left(self, portions: list[Portion], asked: list[Asked]) -> None:
        """Say how much of each task is left to be answered."""
        from bench.scoring.trees import count_tokens

        shares = {}
        for one in asked:
            left = sum(count_tokens(portion.requests) for portion in portions if portion.asker is one)
            shares[one.task] = min(1.0, left / max(count_tokens(one.requests), 1))
        self.ledger.progress.learn_left(self.scores.model, shares)

    def _answer(self, pool: Pool, portions: list[Portion], known: Answers) -> None:
        """Have everything answered, and score each task as soon as all of it is. A task fails with what
        it is the first to wait for; what others need of that is tried for them."""
        parts = [
            replace(portion, batches=part)
            for portion in portions
            for part in cut(portion.batches, self.ledger.executor.parts)
        ]
        again: list[Portion] = []
        self._score(pool, known)
        for number, outcome in self.ledger.run([self._answer_job(part, known) for part in parts]):
            part = parts[number]
            if outcome.error:
                with self.ledger.guard(self._stages(*pool.pop([part.asker]))):
                    outcome.get()
                again += pool.pass_on(part)
            else:
                requests, answers, seconds = outcome.get()
                known.keep(requests, answers, part.owner)
                part.asker.seconds += seconds
                pool.keep(requests)
                self._score(pool, known)
        if again:
            self._answer(pool, again, known)

    def _answer_job(self, part: Portion, known: Answers) -> Job:
        from bench.scoring.one_pass import OnePass

        asker = part.asker
        job = self._job(
            OnePass.answer_batches,
            part.variants,
            part.batches,
            known.budget,
            title=f"{self.scores.model.name}: {asker.name}, {len(asker.cells)} variants in one pass",
            cost=pass_of(self.scores.model, asker.task),
        )
        return replace(job, resumes=True)  # the same answers may come twice

    def _score(self, pool: Pool, known: Answers) -> None:
        """Score the tasks that are answered."""
        for one in pool.pop_answered():
            self.ledger.progress.step(f"{self.scores.model.name}: scores of {one.name}")
            with self.ledger.guard(self._stages(one)):
                variants = len(one.cells)
                self._drop_nan(one, [s for s in one.stems if not known.lists_nan(s, one.requests)])
                for cell in one.cells:
                    self._score_cell(one, cell, known, variants)
            self.ledger.progress.rest()
            self.ledger.progress.relist()

    def _score_cell(self, one: Asked, cell: Cell, known: Answers, variants: int) -> None:
        with self.ledger.stage(cell, stage_of(one.task)):
            unloaded, texts = self.scores.unloaded, self.scores.read_texts(cell, one.prepared)
            score = unloaded.score(one.prepared, texts, partial(known.of, cell.stem))
            self.scores.record(
                cell,
                one.task,
                one.prepared,
                score,
                generation=self.scores.describe_texts(cell, one.prepared, unloaded.lm.generated),
                method="one-pass",
                pass_seconds=one.seconds,
                pass_variants=variants,
            )

    def _stages(self, *asked: Asked) -> Iterator[Stage]:
        """The stages that score tasks, of the cells that are left."""
        return ((cell, stage_of(one.task)) for one in asked for cell in one.cells)

    def _drop_nan(self, one: Asked, sound: list[str]) -> None:
        """Leave the cells that answer with numbers; a task fails for the others."""
        for cell in one.cells:
            if cell.stem not in sound:
                self.ledger.fail(cell, stage_of(one.task), self.scores.refuse_nan())
        one.cells = [cell for cell in one.cells if cell.stem in sound]


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
