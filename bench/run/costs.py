"""What the jobs of a run cost: seconds on a usual machine, from the sizes of models, texts and tasks.

Only how they compare with each other matters: the pace of this machine is measured while they run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from bench.run.forecast import Job, Key
from bench.run.own_text import OwnText, list_unwritten
from bench.run.sizes import DECODING, WRITING, ModelSize, TaskSize
from bench.suite.matrix import Cell, Plan
from bench.suite.suite import ModelSpec
from bench.tasks.planned import PlannedTask, stage_of

CALIBRATION = 2.0  # passes: distances of all layers, then moments, which are dearer
HELD_BACK = 0.1  # of the calibration tokens
LOSSES = 2.0  # passes over the held-back tokens when a variant is fitted
CHECKS = (
    12  # requests of a task that are answered one at a time as well, see bench.scoring.verify.sample
)
TRAINING = 3.0  # forwards of a layer that a step takes where gradients go through it
HEADS = 3.0  # times that the output matrix is applied to a token in a step
ENGINE = 10.0  # seconds until an engine process has started


def own_text_of(text: OwnText) -> Key:
    """The job that has a model write its own text."""
    return "generate", text.key


def calibration_of(model: ModelSpec) -> Key:
    """The job that calibrates a model."""
    return "calibrate", model.name


def fit_of(cell: Cell) -> Key:
    """The job that fits and saves a variant; those of one solver take alike."""
    return f"fit {cell.solver.solver.name if cell.solver else ''}", cell.name


def heal_of(cell: Cell) -> Key:
    """The job that trains a variant."""
    return "heal", cell.name


def reload_of(cell: Cell) -> Key:
    """The job that loads what was saved."""
    return "reload", cell.name


def check_of(model: ModelSpec) -> Key:
    """The job that tries a few requests of each task in one pass."""
    return "check", model.name


def pass_of(model: ModelSpec, task: PlannedTask) -> Key:
    """The job that scores a task on all variants of a model in one pass."""
    return "one pass", f"{model.name}: {task.name}"


def scoring_of(cell: Cell, task: PlannedTask) -> Key:
    """The job that scores a task on one checkpoint."""
    return "checkpoint", f"{cell.name}: {task.name}"


def writing_of(cell: Cell) -> Key:
    """The job that writes the texts of a shape of checkpoint, named by its first cell."""
    return "write", cell.name


def serving_of(cell: Cell) -> Key:
    """The job that serves a checkpoint."""
    return "serve", cell.name


def cost_of(text: OwnText, size: ModelSize) -> Job:
    """What a model's own text costs."""
    return Job(*own_text_of(text), size.run(WRITING * text.tokens, size.layers, text.tokens), ENGINE)


class Costs:
    """The jobs that are left of a plan, as well as they are known."""

    def __init__(self, plan: Plan, list_due: Callable[[Cell], list[str]], out: Path = Path()) -> None:
        """``out``: folder of the results, where texts may lie that models wrote."""
        self._plan, self._list_due, self._out = plan, list_due, out
        self.sizes: dict[ModelSpec, ModelSize] = {}
        self.tokens: dict[ModelSpec, int] = {}  # of the calibration text
        self.tasks: dict[PlannedTask, TaskSize] = {}
        self.starts: dict[Cell, int] = {}  # first layer that is removed, by what is only pruned
        self.apart: set[tuple[ModelSpec, PlannedTask]] = set()  # scored checkpoint by checkpoint
        self.left: dict[tuple[ModelSpec, PlannedTask], float] = {}  # share of a sweep, if not all of it

    def list_jobs(self) -> Iterator[Job]:
        """What is left, in seconds on a usual machine."""
        for text in list_unwritten(self._plan, self._list_due, self._out):
            yield cost_of(text, self._size_of(text.model))
        for model in self._plan.suite.models:
            cells = [cell for cell in self._plan.cells if cell.model == model]
            due = {cell: self._list_due(cell) for cell in cells}
            yield from self._prune_jobs(model, [cell for cell in cells if "prune" in due[cell]])
            yield from self._heal_jobs(model, [cell for cell in cells if "heal" in due[cell]])
            left = {
                task: [cell for cell in cells if stage_of(task) in due[cell]]
                for task in self._plan.tasks
            }
            yield from self._check_jobs(model, left)
            for task, lacking in left.items():
                yield from self._score_jobs(model, task, lacking)
            yield from self._write_jobs(model, due)
            yield from self._serve_jobs(model, [cell for cell in cells if "serve" in due[cell]])

    def _prune_jobs(self, model: ModelSpec, cells: list[Cell]) -> Iterator[Job]:
        size, data = self._size_of(model), self._plan.suite.calibration
        tokens = self.tokens.get(model, data.samples * data.max_length)
        whole = size.run(tokens, size.layers)
        held = HELD_BACK * size.run(tokens, size.layers, tokens)
        pruned = [cell for cell in cells if cell.solver]
        if pruned:
            yield Job(*calibration_of(model), CALIBRATION * whole)
        for cell in {cell.pruned.stem: cell for cell in pruned}.values():
            assert cell.solver
            passes = cell.solver.solver.passes
            yield Job(*fit_of(cell), passes * whole + LOSSES * held)
            yield Job(*reload_of(cell), held)

    def _heal_jobs(self, model: ModelSpec, cells: list[Cell]) -> Iterator[Job]:
        """Gradients go through the layers after the first removed one; the intact model reads the text
        where it teaches."""
        size = self._size_of(model)
        for cell in cells:
            assert cell.heal
            kept = size.layers - cell.layers
            after = kept - self.starts.get(cell.pruned, kept // 2)
            if (tokens := cell.heal.until or cell.heal.budget) is None:
                yield Job(*heal_of(cell), 0.0, cell.heal.seconds or 0.0)
            else:
                before = kept - after if cell.heal.is_sft else size.layers
                work = size.run(tokens, before + TRAINING * after, HEADS * tokens)
                yield Job(*heal_of(cell), work)
            yield Job(*reload_of(cell), HELD_BACK * size.run(tokens or 0, size.layers))

    def _check_jobs(self, model: ModelSpec, left: dict[PlannedTask, list[Cell]]) -> Iterator[Job]:
        size = self._size_of(model)
        work = sum(
            self._check_work(size, self._task_size(task), self._count_layers(size, cells))
            for task, cells in left.items()
            if cells and self._is_together(model, task)
        )
        if work:
            yield Job(*check_of(model), work)

    def _is_together(self, model: ModelSpec, task: PlannedTask) -> bool:
        """Whether a task is scored on all variants in one pass, as far as that is known."""
        score = self._plan.suite.score
        written = self._task_size(task).texts
        return bool(
            score and score.method == "one-pass" and not written and (model, task) not in self.apart
        )

    def _score_jobs(self, model: ModelSpec, task: PlannedTask, cells: list[Cell]) -> Iterator[Job]:
        score = self._plan.suite.score
        if score is None or not cells:
            return
        size, asked = self._size_of(model), self._task_size(task)
        if asked.texts and (model, task) not in self.apart:
            return
        if self._is_together(model, task):
            predictions = asked.answers * len(cells)
            tokens, layers = asked.context + asked.answers, self._count_layers(size, cells)
            left = self.left.get((model, task), 1.0)
            yield Job(*pass_of(model, task), left * size.run(tokens, layers, predictions))
            return
        for cell in cells:
            work = size.run(asked.apart, size.layers - cell.layers, asked.apart)
            yield Job(*scoring_of(cell, task), work)

    def _write_jobs(self, model: ModelSpec, due: dict[Cell, list[str]]) -> Iterator[Job]:
        """The texts of each shape of checkpoint, which one engine writes."""
        size = self._size_of(model)
        tasks = [task for task in self._plan.tasks if (model, task) not in self.apart]
        shapes: dict[int, list[Cell]] = {}
        for cell in due:
            shapes.setdefault(cell.layers, []).append(cell)
        for layers, cells in shapes.items():
            texts = [
                (cell, self._task_size(task).texts)
                for cell in cells
                for task in tasks
                if stage_of(task) in due[cell]
            ]
            if tokens := sum(count for _, count in texts):
                first = next(cell for cell, count in texts if count)
                yield Job(*writing_of(first), size.run(tokens, size.layers - layers), ENGINE)

    def _check_work(self, size: ModelSize, asked: TaskSize, layers: float) -> float:
        """Of a few requests: of all variants, of one in one pass, and of that one request at a time."""
        few = min(CHECKS, asked.requests)
        tokens = few * asked.apart / max(asked.requests, 1)
        together = size.run(tokens, layers + 2 * size.layers, tokens)
        return together + size.run(tokens + few * DECODING, size.layers, tokens)

    def _count_layers(self, size: ModelSize, cells: list[Cell]) -> float:
        """Layers of one pass over several variants, which share those before the first one removed."""
        layers = float(size.layers)
        for cell in cells:
            if cell.solver:
                kept = size.layers - cell.layers
                layers += kept - self.starts.get(cell.pruned, kept // 2)
        return layers

    def _serve_jobs(self, model: ModelSpec, cells: list[Cell]) -> Iterator[Job]:
        serve, size = self._plan.suite.serve, self._size_of(model)
        if serve is None:
            return
        shapes = {cell.stem if serve.per_checkpoint else cell.layers: cell for cell in reversed(cells)}
        for cell in shapes.values():
            tokens = sum(
                load.batch_size * (load.input_len + load.output_len) + load.output_len * DECODING
                for load in serve.workloads
            )
            runs = serve.processes * (serve.warmup + serve.repeats)
            work = size.run(runs * tokens, size.layers - cell.layers)
            yield Job(*serving_of(cell), work, serve.processes * ENGINE)

    def _size_of(self, model: ModelSpec) -> ModelSize:
        """A model's size, or that of another one where it is not known yet."""
        return self.sizes.get(model) or next(iter(self.sizes.values()), ModelSize())

    def _task_size(self, task: PlannedTask) -> TaskSize:
        """A task's size, or the mean of those that are known."""
        return self.tasks.get(task) or TaskSize.mean_of(self.tasks.values(), task.limit)
