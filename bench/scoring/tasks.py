"""lm-eval's tasks: their requests, and their scores on whatever answers them."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from bench.scoring.chosen import chosen_answers
from bench.scoring.metrics import primary_metric
from bench.scoring.replies import Requests
from bench.scoring.surroundings import Surroundings
from bench.scoring.words import in_words
from bench.tasks.catalog import UNSAFE, TaskSource, describe_for_manager, runs_code_of_models, yaml_of
from bench.tasks.planned import PlannedTask
from bench.tasks.spec import SEEDS, Limit, Seeds, TaskSpec
from bench.transcripts import Questions, Transcript
from replaceme.chat import USUAL_DAY
from replaceme.errors import InputError

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.models.huggingface import HFLM

    from replaceme.facts import Divergence

WEIGHTED = {"word_perplexity": 1.0, "byte_perplexity": 1.0, "bits_per_byte": -1 / math.log(2)}
BOOTSTRAPS = 1000  # resamples for the standard error of metrics that are not means


@dataclass(frozen=True)
class TaskScore:
    """One task on one checkpoint.

    Attributes:
        metrics: name → {value, stderr (``None`` if unknown), higher_is_better}; accuracies in [0, 1].
        primary: the metric that counts.
        items: number of items scored.
        samples: {"doc_id": […], metric: […]}, per-item scores in the order of the items, and behind
            ``chosen:`` and a metric the answers that were chosen.
        transcript: what was asked and answered.
        divergence: from the intact model over all predicted tokens; ``None``: not known.
    """

    metrics: dict[str, dict[str, Any]]
    primary: str
    items: int
    version: str | None
    num_fewshot: int
    samples: dict[str, list[Any]]
    seconds: float
    transcript: Transcript | None = None
    divergence: Divergence | None = None


class PreparedTask:
    """An lm-eval task with its requests, which are built once for all models and variants.

    What it draws at random, when it is built and when it is scored, is what ``lm_eval`` draws that runs
    this task alone with the same seeds.
    """

    def __init__(
        self,
        spec: TaskSpec,
        source: TaskSource,
        limit: Limit | None,
        seeds: Seeds = SEEDS,
        model: HFLM | None = None,
        day: date = USUAL_DAY,
        unsafe_code: bool = False,
    ) -> None:
        """Build the requests.

        Args:
            model: whose chat template is used, where ``spec`` wants one.
            day: that the template takes for today.
            unsafe_code: let tasks run the code that a model writes.

        Raises:
            InputError: the model has not the chat template that ``spec`` names, or the task runs code
                that nobody has allowed.
        """
        import torch

        from bench.scoring.preparing import prepare
        from bench.scoring.requests import requests_hash

        self.spec, self._limit, self._unsafe_code = spec, limit, unsafe_code
        self._seed = seeds[2]
        path = yaml_of(source).resolve()
        self._folder = path.parent
        self._questions: Questions | None = None
        self._surroundings = Surroundings(self._folder)  # relative data_files are relative to the YAML
        names = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
        settings: dict[str, Any] = dict(zip(names, seeds, strict=True))
        settings |= {"num_fewshot": spec.num_fewshot, "limit": limit}
        settings["confirm_run_unsafe_code"] = unsafe_code
        settings["apply_chat_template"] = spec.apply_chat_template or False
        settings["fewshot_as_multiturn"] = bool(spec.fewshot_as_multiturn)
        settings["system_instruction"] = spec.system_instruction
        if runs_code_of_models(source) and not unsafe_code:
            raise InputError(UNSAFE)
        with in_words(), self._surroundings.enter():
            self._task = prepare(*describe_for_manager(source), model, day, **settings)
            self._restore = self._surroundings.random_states()
            self._random_state = torch.get_rng_state()
        self.requests = requests_hash(self._task)
        self._task.build_all_requests = self._rewind

    @classmethod
    def of(cls, task: PlannedTask, model: HFLM | None) -> PreparedTask:
        """A task as a suite wants it."""
        limit, seeds = task.limit, task.seeds
        return cls(task.spec, task.source, limit, seeds, model, task.day, task.unsafe_code)

    def _rewind(self, **_: Any) -> None:
        """Takes the place of building the requests again."""
        for instance in self.instances:
            instance.resps, instance.filtered_resps = [], {}
        self._restore()

    @property
    def instances(self) -> list[Instance]:
        return self._task.instances

    def ask(self, written: bool = False) -> Requests:
        """What the task asks of a model.

        Args:
            written: the texts that it asks for are there already.
        """
        bare = [replace(one, doc={}, resps=[], filtered_resps={}) for one in self.instances]
        return Requests(bare, written, self._seed, self._random_state)

    @property
    def num_fewshot(self) -> int:
        """Examples in the prompt: never any where the task fixes 0."""
        return int(self._task.get_config("num_fewshot") or 0)

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of the files that its code has read, by path from its YAML's folder."""
        return self._surroundings.files

    @property
    def samples(self) -> bool:
        """Whether its answers are drawn at random, and so depend on the batch size."""
        from bench.scoring.requests import samples

        return samples(self._task)

    @property
    def texts_asked(self) -> list[tuple[str, dict[str, Any]]]:
        """The prompts that the task wants texts to, with their settings, in the order that lm-eval asks
        in: as often as the task repeats them."""
        asked = [instance for instance in self.instances if instance.request_type == "generate_until"]
        return [instance.args for instance in asked for _ in range(instance.repeats)]

    def count_written(self, default: int) -> int:
        """Tokens of all texts at most.

        Args:
            default: of a text, where the task does not say.
        """
        from lm_eval.models.utils import normalize_gen_kwargs

        asked = (normalize_gen_kwargs(dict(settings), default) for _, settings in self.texts_asked)
        return sum(int(settings["max_gen_toks"]) for settings in asked)

    @property
    def kinds(self) -> set[str]:
        """What the task asks a model for, in lm-eval's names."""
        return {instance.request_type for instance in self.instances}

    def score(self, model: LM, bootstraps: int = BOOTSTRAPS) -> TaskScore:
        """Have a model answer, as lm-eval's ``simple_evaluate`` does but for its environment report.

        Raises:
            InputError: the task does not report the metric that its spec names.
        """
        from lm_eval import evaluate

        start = time.perf_counter()
        with in_words(), self._surroundings.enter():
            output = evaluate(
                lm=model,
                task_dict={"tasks": {self.spec.task: self._task}, "groups": {}},
                limit=self._limit,
                confirm_run_unsafe_code=self._unsafe_code,
                bootstrap_iters=bootstraps,
            )
        score = _task_score(self.spec, output, time.perf_counter() - start)
        samples, docs = output["samples"][self.spec.task], score.samples["doc_id"]
        chosen = chosen_answers(self._task, samples, docs, [*score.metrics])
        transcript = self._transcript(output, model, bootstraps)
        return replace(score, samples=score.samples | chosen, transcript=transcript)

    def _transcript(self, output: dict[str, Any], model: LM, bootstraps: int) -> Transcript:
        from bench.scoring import logged

        name = self.spec.task
        self._questions = self._questions or logged.questions(name, output, self._folder)
        answered = logged.responses(name, output, self._questions, model, bootstraps)
        return Transcript(self._questions, answered)


def _task_score(task: TaskSpec, output: dict[str, Any], seconds: float) -> TaskScore:
    name = task.task
    results = output["results"][name]
    directions = output["higher_is_better"][name]
    samples = output["samples"][name]
    docs = list(dict.fromkeys(sample["doc_id"] for sample in samples))
    columns: dict[str, list[Any]] = {"doc_id": docs}
    metrics = {}
    for key, found in results.items():
        metric, _, chain = key.partition(",")
        value = _number(found)
        if not chain or metric.endswith("_stderr") or value is None:
            continue
        label = metric if chain == "none" else key
        metrics[label] = {
            "value": value,
            "stderr": _number(results.get(f"{metric}_stderr,{chain}")),
            "higher_is_better": directions.get(metric),
        }
        filtered = {s["doc_id"]: s.get(metric) for s in samples if s.get("filter", chain) == chain}
        scores = _item_scores(metric, [filtered.get(doc) for doc in docs], value)
        if scores is not None:
            columns[label] = [round(score, 6) for score in scores]
    if not metrics:
        raise InputError(f"task {name!r} reports no metric that is a number.")
    version = output["versions"].get(name)
    return TaskScore(
        metrics,
        primary_metric(task, metrics),
        len(docs),
        None if version is None else str(version),
        int(output["n-shot"].get(name) or 0),
        columns,
        seconds,
    )


def _number(value: Any) -> float | None:
    """A number of Python or numpy as a float; ``None`` for what is none, such as lm-eval's ``N/A``."""
    import numpy as np

    value = value.item() if isinstance(value, np.generic) else value
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None


def _item_scores(metric: str, values: list[Any], whole: float) -> list[float] | None:
    """What a metric says of each item; ``None`` where that is no number.

    A perplexity over words or bytes comes as pairs (log-likelihood ℓᵢ, size wᵢ) and is exp(−Σℓ/Σw). Its
    items' scores are ℓᵢ/w̄, whose mean is Σℓ/Σw; those of bits per byte, −ℓᵢ/(w̄ log 2).
    """
    if metric not in WEIGHTED:
        scores = [number for value in values if (number := _number(value)) is not None]
        return scores if len(scores) == len(values) else None
    pairs = [
        (_number(v[0]), _number(v[1])) for v in values if isinstance(v, tuple | list) and len(v) == 2
    ]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    size = sum(b for _, b in known)
    if len(known) < len(values) or size <= 0:
        return None
    scores = [WEIGHTED[metric] * a * len(known) / size for a, _ in known]
    mean = sum(scores) / len(scores)
    with contextlib.suppress(OverflowError):
        aggregate = mean if metric == "bits_per_byte" else math.exp(-mean)
        if math.isclose(aggregate, whole, rel_tol=1e-6):
            return scores
    return None
