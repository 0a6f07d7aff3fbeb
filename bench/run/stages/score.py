"""The score stage of a run: all tasks on all variants of one model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import records, transcripts
from bench.names import file_name
from bench.run.host import environment
from bench.run.resume import forget_others, tasks_left
from bench.serving import device_name
from bench.suite.matrix import Cell
from bench.tasks.planned import Task, TaskGroup, stage_of
from bench.tasks.spec import TaskSpec
from replaceme.edit import Edit
from replaceme.errors import InputError, OutputError
from replaceme.io import loading
from replaceme.io.editfile import load_edit
from replaceme.recipe import digest

if TYPE_CHECKING:
    from bench.run.runner import Run
    from bench.scoring.answers import Answers
    from bench.scoring.checkpoint import CheckpointScorer
    from bench.scoring.one_pass import OnePass
    from bench.scoring.tasks import PreparedTask, TaskScore
    from bench.scoring.trees import Request


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
        self._templated: dict[Task, PreparedTask] = {}
        self.dtype = score.dtype or loading.fast_dtype(prune.dtype, run.device)

    def execute(self) -> None:
        self._score_tasks()
        for group in self.run.plan.groups:
            for cell in self.cells:
                if stage_of(group) in self.run.due(cell) and not self._lacking_in(group, cell):
                    work = partial(self._record_group, cell, group)
                    self.run.attempt(cell, stage_of(group), work)

    def _lacking_in(self, group: TaskGroup, cell: Cell) -> list[Task]:
        """The tasks of a group that a cell's record does not answer."""
        return tasks_left(self.run.records[cell], list(group.tasks))

    def _score_tasks(self) -> None:
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
        """The cells that a task is still to do for."""
        return [cell for cell in self.cells if stage_of(task) in self.run.due(cell)]

    def prepared(self, task: Task, scorer: OnePass | CheckpointScorer) -> PreparedTask:
        """A task with its requests, built once for all models, or once for this one if it has its chat
        template."""
        from bench.scoring.tasks import PreparedTask

        known = self._templated if task.spec.apply_chat_template else self.run.prepared
        if task not in known:
            found = PreparedTask(task.spec, task.source, task.limit, task.seeds, scorer.lm, task.day)
            known[task] = found
            self._tell(task.spec, found.num_fewshot)
            self._forget_others(task, found.requests)
        return known[task]

    def _forget_others(self, task: Task, requests: str) -> None:
        """Have cells scored again that were asked something else; a chat template asks every model
        something else."""
        cells = self.cells if task.spec.apply_chat_template else [*self.run.records]
        stale = [cell for cell in cells if forget_others(self.run.records[cell], task, requests)]
        if stale:
            self.run.outdated |= dict.fromkeys(cell.model for cell in stale)
            self.run.events.say(
                f"{task.spec.task}: it asks something else than when {len(stale)} cells were scored, "
                f"which are scored again."
            )

    def _tell(self, spec: TaskSpec, shots: int) -> None:
        """Say where lm-eval does something else than was asked for."""
        if spec.num_fewshot not in (None, shots):
            self.run.events.say(
                f"{spec.task}: {shots}-shot, which the task fixes; {spec.num_fewshot} examples were "
                f"asked for."
            )
        if spec.apply_chat_template not in (None, False, True, "default"):
            self.run.events.say(
                f"{spec.task}: lm-eval renders the tokenizer's default chat template, whatever "
                f"apply_chat_template names."
            )

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
                if reason := scorer.obstacle or self.obstacle(task, scorer) or self._sweep(scorer, task):
                    reasons[task] = reason
            except OutputError:
                raise
            except Exception as error:
                self._fail([task], error)
        del scorer
        free_memory()
        return reasons

    @loading.enough_memory()
    def load(self, answers: Answers) -> OnePass:
        """The model with the edits of all its cells."""
        from bench.scoring.one_pass import OnePass

        return OnePass(
            self.source,
            {cell.stem: self._edit(cell) for cell in self.cells},
            saved_in=self.model.dtype,
            dtype=self.dtype,
            device=self.run.device,
            batch_size=self.settings.batch_size,
            answers=answers,
            trust_remote_code=self.model.trust_remote_code,
        )

    def _answers(self) -> Answers:
        """Those of an interrupted run, if they were computed alike."""
        from bench.scoring.answers import Answers

        scope = {"dtype": self.dtype, "device": device_name()}
        answers = Answers(answers_file(self.run.out, self.cells[0]), scope)
        answers.budget = self.settings.batch_tokens or answers.budget
        return answers

    def _edit(self, cell: Cell) -> Edit:
        return load_edit(self.run.checkpoints.edit_file(cell))[0] if cell.solver else Edit()

    def obstacle(self, task: Task, scorer: OnePass) -> str | None:
        """Why a task cannot be scored in one pass, or ``None``."""
        from bench.scoring.answering import KINDS

        other = self.prepared(task, scorer).kinds - KINDS
        return f"the task asks for {' and '.join(sorted(other))}" if other else None

    @loading.enough_memory()
    def _sweep(self, scorer: OnePass, task: Task) -> str | None:
        """Score a task; returns why that cannot be, if so."""
        from bench.scoring.verify import check, sample

        cells, prepared = self._lacking(task), self.prepared(task, scorer)
        self.run.events.step(f"{self.model.name}: {task.spec.task}, {len(cells)} variants in one pass")
        requests = scorer.lm.requests(prepared.instances)
        few = sample(requests, scorer.sweep.lengths)
        if not (cells := self._sound(scorer, task, cells, few)):
            return None
        found = check(scorer, scorer.most_changed([cell.stem for cell in cells]), few)
        if not found.agree:
            reason = f"one pass {found.disagreement} from one request at a time"
            self.run.events.say(
                f"{self.model.name}: {task.spec.task} checkpoint by checkpoint: {reason}."
            )
            return reason
        seconds = scorer.answer(prepared, [cell.stem for cell in cells], self.run.events.share)
        how = {"method": "one-pass", "pass_seconds": seconds, "pass_variants": len(cells)}
        for cell in self._with_numbers(scorer.sweep.known, task, cells, requests):
            score = partial(scorer.score, prepared, cell.stem)
            self.run.attempt(
                cell, stage_of(task), partial(self._record, cell, task, prepared, score, how)
            )
        return None

    def _with_numbers(
        self, known: Answers, task: Task, cells: list[Cell], requests: list[Request]
    ) -> list[Cell]:
        """The cells whose answers are numbers; a task fails for the others."""
        distinct, sound = [*dict.fromkeys(requests)], []
        for cell in cells:
            if any(isnan(known.of(cell.stem, request).loglikelihood) for request in distinct):
                self.run.fail(cell, stage_of(task), InputError(self._no_numbers()))
            else:
                sound.append(cell)
        return sound

    def _no_numbers(self) -> str:
        return (
            f"the model answers with NaN; its weights hold NaN or infinity, or its states overflow in "
            f"{self.dtype} (score.dtype)."
        )

    def _sound(self, scorer: OnePass, task: Task, cells: list[Cell], few: list[Request]) -> list[Cell]:
        """The cells that answer a few requests with numbers."""
        from bench.scoring.answers import Answers
        from bench.scoring.sweep import Sweep

        sweep = Sweep(scorer.sweep.fork, Answers())
        sweep.known.budget = scorer.sweep.known.budget
        sweep.run([cell.stem for cell in cells], few)
        return self._with_numbers(sweep.known, task, cells, few)

    # ---- checkpoint by checkpoint

    @loading.enough_memory()
    def load_checkpoint(self, cell: Cell) -> CheckpointScorer:
        """lm-eval's own model of a cell's checkpoint.

        Raises:
            InputError: what it computes are not numbers.
        """
        from bench.scoring.checkpoint import CheckpointScorer

        scorer = CheckpointScorer(
            self.run.checkpoints.whole(cell, self.source),
            dtype=self.dtype,
            device=self.run.device,
            batch_size=self.settings.batch_size,
            trust_remote_code=cell.model.trust_remote_code,
        )
        if not _gives_numbers(scorer.lm.model):
            raise InputError(self._no_numbers())
        return scorer

    def _one_by_one(self, cell: Cell, reasons: dict[Task, str]) -> None:
        from bench.scoring.checkpoint import free_memory

        self.run.events.step(f"{cell.name}: loading for scoring")
        try:
            scorer = self.load_checkpoint(cell)
        except OutputError:
            raise
        except Exception as error:
            self._fail([*reasons], error, [cell])
            return
        for task, reason in reasons.items():
            self.run.events.step(f"{cell.name}: {task.spec.task}")
            work = partial(self._score_checkpoint, cell, task, scorer, reason)
            self.run.attempt(cell, stage_of(task), work)
        del scorer, work
        free_memory()

    @loading.enough_memory()
    def _score_checkpoint(self, cell: Cell, task: Task, scorer: CheckpointScorer, reason: str) -> None:
        prepared = self.prepared(task, scorer)
        dependence = scorer.dependence(prepared)
        if dependence:
            reason += f"; one request at a time: {dependence}"
        score = partial(scorer.score, prepared, 1 if dependence else None)
        self._record(cell, task, prepared, score, {"method": "per-variant", "reason": reason})

    # ---- records

    def _record(
        self,
        cell: Cell,
        task: Task,
        prepared: PreparedTask,
        scored: Callable[[], TaskScore],
        how: dict[str, Any],
    ) -> None:
        score, store, name = scored(), self.run.store, task.spec.task
        store.write_samples(cell.stem, store.read_samples(cell.stem) | {name: score.samples})
        if score.transcript:
            transcripts.write(store.folder, cell.stem, name, score.transcript)
        self.run.records[cell].quality[name] = records.Task(
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
            sampled_batch=self.settings.batch_size if prepared.samples else None,
            **environment.peak_memory(),
            **how,
        )

    def _record_group(self, cell: Cell, group: TaskGroup) -> None:
        from bench.scoring.aggregate import aggregated

        record = self.run.records[cell]
        record.groups[group.name] = aggregated(group, record.quality)

    def _fail(self, tasks: list[Task], error: Exception, cells: list[Cell] | None = None) -> None:
        for task in tasks:
            for cell in cells or self._lacking(task):
                self.run.fail(cell, stage_of(task), error)


def answers_file(out: Path, cell: Cell) -> Path:
    """Where the answers of a cell's model lie until all its tasks are scored."""
    model = digest(cell.identity.model.canonical())[:8]
    return out / "answers" / f"{file_name(cell.model.name)}-{model}.jsonl"


def _gives_numbers(model: Any) -> bool:
    """Whether a causal language model has no NaN in the logits of a few tokens."""
    import torch

    ids = torch.arange(8, device=model.device)[None]
    with torch.no_grad():
        return not bool(model(input_ids=ids).logits.isnan().any())
