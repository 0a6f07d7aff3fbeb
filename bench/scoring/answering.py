"""lm-eval's model class, whose answers may come from elsewhere."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from lm_eval.models.huggingface import HFLM

from bench.scoring.generation.texts import Text
from bench.scoring.heads import Answer
from bench.scoring.trees import Request
from replaceme.divergence import summarize
from replaceme.errors import InputError

if TYPE_CHECKING:
    import torch
    from lm_eval.api.instance import Instance

    from bench.scoring.replies import Replies
    from bench.scoring.tasks import PreparedTask, TaskScore

KINDS = {"loglikelihood", "loglikelihood_rolling"}
Source = Callable[[Request], Answer]


class AnsweringLM(HFLM):
    """lm-eval's model class with other answers than those of its own forward, where ``source`` is set.

    Everything that comes before the forward and after it, tokens, windows and sums, is lm-eval's own.
    """

    def __init__(self, pretrained: Any, **settings: Any) -> None:
        super().__init__(pretrained=pretrained, **settings)
        self.source: Source | None = None
        self.texts: list[Text] | None = None
        self.generated: list[Text] = []
        self._encoded: dict[Any, list[int]] = {}

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **settings: Any
    ) -> list[int]:
        """Tokens of a text, which are found out once.

        Where the tokenizer has no token that a text could begin with, none is looked for: lm-eval would
        decode ``None``.
        """
        if add_special_tokens is None and super().prefix_token_id is None:
            add_special_tokens = self.add_bos_token is not False
        key = (string, add_special_tokens, *settings.items())
        if key not in self._encoded:
            self._encoded[key] = super().tok_encode(string, add_special_tokens, **settings)
        return self._encoded[key]

    @property
    def prefix_token_id(self) -> int:
        """The token that lm-eval puts before a text that has no context.

        Raises:
            InputError: the tokenizer has none.
        """
        if (found := super().prefix_token_id) is None:
            raise InputError(
                f"the tokenizer of {self.tokenizer.name_or_path} has neither a BOS nor an EOS token, "
                f"one of which lm-eval puts before a text that has no context; name one in "
                f"tokenizer_config.json (bos_token, eos_token)."
            )
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes, or has written already.

        What is known of the texts is added to ``generated``.

        Raises:
            InputError: the tokenizer has no token that ends a text.
        """
        if self.texts is not None:
            assert len(self.texts) == len(requests)
            self.generated += self.texts
            return [text.text for text in self.texts]
        if self.eot_token_id is None:
            raise InputError(
                f"the tokenizer of {self.tokenizer.name_or_path} has no EOS token, at which lm-eval "
                f"ends what a model writes; name one in tokenizer_config.json (eos_token)."
            )
        texts: list[str] = super().generate_until(requests, disable_tqdm)
        return texts

    def _model_generate(
        self, context: Any, max_length: int, stop: list[str], **settings: Any
    ) -> torch.Tensor:
        rows: torch.Tensor = super()._model_generate(context, max_length, stop, **settings)
        self.generated += [self._describe(row, stop) for row in rows[:, context.shape[1] :].tolist()]
        return rows

    def _describe(self, row: list[int], stop: list[str]) -> Text:
        """What a row of a batch wrote until it ended, after which the others of the batch go on."""
        ends = (self.eot_token_id, self.tokenizer.pad_token_id)
        whole = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))

        def has_stopped(tokens: int) -> bool:
            text = self.tok_decode(row[:tokens])
            return any(sequence in text for sequence in stop if sequence)

        counts = range(1, whole + 1)
        before = bisect_left(counts, True, key=has_stopped)
        tokens = row[: before + 1] if before < whole else row[:whole]
        cut_off = before == whole == len(row) and row[-1] not in ends
        return Text.of(self.tok_decode(tokens), tokens, cut_off)

    def _loglikelihood_tokens(
        self, requests: list[Any], *args: Any, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        if self.source is None:
            return super()._loglikelihood_tokens(requests, *args, **kwargs)
        asked = [self.request(context, goal) for _, context, goal in requests]
        return [(found.loglikelihood, found.greedy) for found in map(self.source, asked)]

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

    def answers(self, requests: Sequence[Request], batch_size: int) -> list[Answer]:
        """What lm-eval's own forward answers to requests."""
        rows = [(None, *request.split) for request in requests]
        with self.batches_of(batch_size):
            return [Answer(*answer) for answer in self._loglikelihood_tokens(rows, disable_tqdm=True)]

    @contextmanager
    def batches_of(self, batch_size: int) -> Iterator[None]:
        """Another batch size for as long as the context lasts."""
        own = int(self.batch_size)
        self.batch_size_per_gpu = batch_size
        try:
            yield
        finally:
            self.batch_size_per_gpu = own

    @contextmanager
    def having_written(self, texts: list[Text] | None) -> Iterator[None]:
        """Texts are taken from here, if there are any, for as long as the context lasts."""
        self.texts, self.generated = texts, []
        try:
            yield
        finally:
            self.texts = None

    @contextmanager
    def replying(self, replies: Mapping[str, list[Any]]) -> Iterator[None]:
        """Requests of a kind are replied to with what is known, for as long as the context lasts."""
        for kind, known in replies.items():
            setattr(self, kind, lambda *_, known=known, **__: known)
        try:
            yield
        finally:
            for kind in replies:
                delattr(self, kind)

    @contextmanager
    def answering(self, source: Source) -> Iterator[None]:
        """Answers come from ``source`` for as long as the context lasts."""
        self.source = source
        try:
            yield
        finally:
            self.source = None


def score_replies(
    lm: AnsweringLM, task: PreparedTask, replies: Replies, texts: list[Text] | None = None
) -> TaskScore:
    """The score of what a model replied, and of texts that it wrote before."""
    with lm.having_written(texts), lm.replying(replies.by_kind):
        score = task.score(lm)
    return replace(score, seconds=score.seconds + replies.seconds)


def score_answers(
    lm: AnsweringLM, task: PreparedTask, source: Source, texts: list[Text] | None = None
) -> TaskScore:
    """The score of answers that are known, and of what was written, if that is asked for."""
    given: list[Answer] = []

    def answer(request: Request) -> Answer:
        given.append(source(request))
        return given[-1]

    with lm.answering(answer), lm.having_written(texts):
        score = task.score(lm)
    known = [np.asarray(found.divergences) for found in given if found.divergences is not None]
    return replace(score, divergence=summarize(known))
