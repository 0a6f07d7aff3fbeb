"""All variants of one model through lm-eval's tasks in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.models.huggingface import HFLM

from bench.scoring.answers import Answers
from bench.scoring.checkpoint import answers_of
from bench.scoring.fork import Answer, Fork, obstacle, replaced
from bench.scoring.sweep import Sweep
from bench.scoring.tasks import PreparedTask, TaskScore
from bench.scoring.trees import Request
from replaceme import loading
from replaceme.decoder import Decoder
from replaceme.errors import InputError
from replaceme.saved import SavedLayers
from replaceme.surgery import Edit, pruned

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel

KINDS = {"loglikelihood", "loglikelihood_rolling"}


class AnsweringLM(HFLM):
    """lm-eval's model class with other answers than those of its own forward, where ``source`` is set.

    Everything that comes before the forward and after it, tokens, windows and sums, is lm-eval's own.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.source: Callable[[Request], Answer] | None = None
        self._encoded: dict[Any, list[int]] = {}

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **settings: Any
    ) -> list[int]:
        """Tokens of a text, which are found out once."""
        key = (string, add_special_tokens, *settings.items())
        if key not in self._encoded:
            self._encoded[key] = super().tok_encode(string, add_special_tokens, **settings)
        return self._encoded[key]

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[Answer]:
        if self.source is None:
            return super()._loglikelihood_tokens(requests, *args, **kwargs)
        return [self.source(self.request(context, goal)) for _, context, goal in requests]

    def request(self, context: Sequence[int], continuation: Sequence[int]) -> Request:
        """What the model reads and predicts; what is too long loses its beginning, as in lm-eval.

        Raises:
            InputError: the continuation is empty, or alone too long.
        """
        if not 0 < len(continuation) <= self.max_length:
            raise InputError(
                f"a choice of {len(continuation)} tokens cannot be scored; the model takes 1 to "
                f"{self.max_length}."
            )
        whole = tuple(context) + tuple(continuation)
        return Request(whole[-(self.max_length + 1) :][:-1], tuple(continuation))

    def requests(self, instances: list[Instance]) -> list[Request]:
        """What some instances ask for, in tokens."""
        seen: list[Request] = []

        def note(request: Request) -> Answer:
            seen.append(request)
            return Answer(0.0, False)

        with self.answering(note):
            for kind in KINDS:
                asked = [instance for instance in instances if instance.request_type == kind]
                if asked:
                    getattr(self, kind)(asked, disable_tqdm=True)
        return seen

    @contextmanager
    def answering(self, source: Callable[[Request], Answer]) -> Iterator[None]:
        """Answers come from ``source`` for as long as the context lasts."""
        self.source = source
        try:
            yield
        finally:
            self.source = None


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
    ) -> None:
        """Load a model.

        Args:
            source: folder of the intact model.
            edits: variant → what it changes.
            saved_in: the dtype that the checkpoints are cast to; ``None``: each tensor has its own.
            dtype: to compute in.
            batch_size: of lm-eval's own forward, which the answers are compared with.
            answers: where they go, and what is known already.

        Raises:
            InputError: the model cannot be loaded.
        """
        model, tokenizer = loading.load(source, dtype, device, trust_remote_code)
        decoder = Decoder.of(model)
        saved = SavedLayers.of(source, decoder.architecture, saved_in)
        if saved_in:
            _round(model, saved_in)
        self.edits = edits
        self.obstacle = obstacle(model) or saved.obstacle(dtype)
        self.lm = AnsweringLM(model, tokenizer, batch_size)
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

    def score(self, task: PreparedTask, variant: str) -> TaskScore:
        """The score of a variant whose answers are known."""
        with self.lm.answering(partial(self.sweep.known.of, variant)):
            return task.score(self.lm)

    def most_changed(self, variants: Sequence[str]) -> str:
        """The variant with other weights in the most layers."""
        changed = [step.weights for step in self.sweep.fork.changed]
        return max(variants, key=changed.count)

    def answered_by_lm_eval(self, name: str, requests: list[Request], batch_size: int) -> list[Answer]:
        """The answers of lm-eval's own forward on a variant."""
        fork = self.sweep.fork
        removal = Edit(self.edits[name].blocks)
        with replaced(fork.changes(name)), pruned(self.lm.model, fork.decoder.architecture, removal):
            return answers_of(self.lm, requests, batch_size)


def _round(model: PreTrainedModel, dtype: str) -> None:
    """Take what is loaded of a checkpoint to what it would hold once cast."""
    import torch

    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(getattr(torch, dtype)))
