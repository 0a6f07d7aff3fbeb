"""All variants of one model through lm-eval's tasks in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.scoring.answering import AnsweringLM, score_answers
from bench.scoring.answers import Answers
from bench.scoring.fork import Fork
from bench.scoring.forkable import find_obstacle
from bench.scoring.generation.texts import Text
from bench.scoring.heads import Answer
from bench.scoring.sweep import Sweep, count_asked
from bench.scoring.tasks import PreparedTask, TaskScore
from bench.scoring.trees import Request, Tree, TreeBatch, count_tokens, grow
from replaceme.architectures import architecture_of
from replaceme.decoder import Decoder
from replaceme.edit import Edit, prune_temporarily
from replaceme.errors import InputError
from replaceme.hooks import other_values
from replaceme.io import models
from replaceme.io.saved import SavedLayers
from replaceme.memory import load_within
from replaceme.report import Report, no_report


class OnePass:
    """A loaded model that answers tasks for its variants.

    Attributes:
        obstacle: why it cannot, or ``None``.
    """

    def __init__(
        self,
        source: Path,
        edits: Mapping[str, Edit],
        *,
        saved_in: str | None,
        dtype: str,
        device: str,
        batch_size: int,
        answers: Answers,
        trust_remote_code: bool = False,
        memory: int | None = None,
    ) -> None:
        """Load a model.

        Args:
            source: folder of the intact model.
            edits: variant → what it changes.
            saved_in: the dtype that the checkpoints are cast to; ``None``: each tensor has its own.
            dtype: to compute in.
            batch_size: of lm-eval's own forward, which the answers are compared with.
            answers: where they go, and what is known already.
            memory: bytes of the device that may be taken; a larger model is read layer by layer.

        Raises:
            InputError: the model cannot be loaded.
        """
        architecture = architecture_of(
            models.read_config(source), f"model {source}", source, trust_remote_code
        )
        model, tokenizer, room = load_within(
            source, architecture, dtype, device, trust_remote_code, memory, cast=saved_in
        )
        decoder = Decoder.of(model, room=room)
        saved = SavedLayers.of(source, decoder.architecture, saved_in)
        self.edits = edits
        self.obstacle = find_obstacle(model) or saved.obstacle(dtype)
        self.lm = AnsweringLM(model, tokenizer=tokenizer, batch_size=batch_size)
        try:
            fork = Fork.of(decoder, {} if self.obstacle else edits, saved.unedited)
        except InputError as error:
            self.obstacle, fork = str(error), Fork.of(decoder, {}, saved.unedited)
        self.sweep = Sweep(fork, answers)

    def answer(
        self,
        task: PreparedTask,
        variants: Sequence[str],
        progress: Callable[[float], None] = lambda _: None,
    ) -> float:
        """Find out all answers of some variants; returns the seconds it took."""
        before = self.sweep.work.seconds
        self.sweep.run(variants, self.lm.requests(task.instances), progress)
        return self.sweep.work.seconds - before

    def score(self, task: PreparedTask, variant: str, texts: list[Text] | None = None) -> TaskScore:
        """The score of a variant whose answers are known, and what it wrote, if that is asked for."""
        return score_answers(self.lm, task, partial(self.sweep.known.of, variant), texts)

    def explain_obstacle(self) -> str | None:
        """Why it cannot answer, or ``None``."""
        return self.obstacle

    def arrange(
        self, asked: Sequence[Sequence[Request]], budget: int | None
    ) -> tuple[int | None, list[list[list[Tree]]]]:
        """The requests of each task in batches, and the tokens of one, which are measured where nobody
        has decided; ``None``: nothing is asked."""
        self.sweep.known.budget = budget
        batches = [self.sweep.arrange(requests) for requests in asked]
        return self.sweep.known.budget, batches

    def answer_batches(
        self,
        variants: Sequence[str],
        batches: Sequence[list[Tree]],
        budget: int | None,
        report: Report = no_report,
    ) -> Iterator[tuple[list[Request], dict[str, list[Answer]], float]]:
        """The requests of batches, variant → the answers to them, and the seconds that took, as they
        come.

        Args:
            report: told which share of the tokens is done.
        """
        self.sweep.known.budget = budget
        total, done, before = sum(map(count_asked, batches)), 0, self.sweep.work.seconds
        for requests, answers in self.sweep.answer(variants, batches):
            done += count_tokens(requests)
            report(done / total)
            yield requests, answers, self.sweep.work.seconds - before
            before = self.sweep.work.seconds

    def most_changed(self, variants: Sequence[str]) -> str:
        """The variant with other weights in the most layers."""
        changed = [step.weights for step in self.sweep.fork.changed]
        return max(variants, key=changed.count)

    def ask(self, name: str, requests: Sequence[Request]) -> list[Answer]:
        """A variant's answers in one pass, which are not kept."""
        sweep = self._sweep_afresh()
        sweep.run([name], requests)
        return [sweep.known.of(name, request) for request in requests]

    def ask_both_ways(self, name: str, requests: Sequence[Request]) -> tuple[list[Answer], list[Answer]]:
        """The same, and the answers of lm-eval's own forward to each request by itself.

        Where each forward would read all layers, one walk takes the batches of one pass, and each
        request as a batch of its own.
        """
        fork = self.sweep.fork
        if fork.decoder.is_resident:
            return self.ask(name, requests), self._ask_alone(name, requests)
        sweep, only = self._sweep_afresh(), fork.only([name])
        together = sweep.arrange(requests)
        single = [grow([request], 0.0, len(request.tokens)) for request in requests]
        batches = [TreeBatch(trees) for trees in together + single]
        found = [answers[name] for answers in only.answers_to(batches)]
        known = {
            request: answer
            for batch, answers in zip(batches[: len(together)], found, strict=False)
            for request, answer in zip(batch.requests, answers, strict=True)
        }
        alone = [answer for (answer,) in found[len(together) :]]
        return [known[request] for request in requests], alone

    def _sweep_afresh(self) -> Sweep:
        sweep = Sweep(self.sweep.fork, Answers())
        sweep.known.budget = self.sweep.known.budget
        return sweep

    def _ask_alone(self, name: str, requests: Sequence[Request]) -> list[Answer]:
        fork = self.sweep.fork
        removal = Edit(self.edits[name].blocks)
        with (
            other_values(fork.changes(name)),
            prune_temporarily(self.lm.model, fork.decoder.architecture, removal),
        ):
            return self.lm.answers(requests, 1)
