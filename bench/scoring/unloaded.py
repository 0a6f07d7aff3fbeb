"""A model without its weights: for building requests, and for judging texts that are there already."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig

from bench.scoring.answering import AnsweringLM, Source, score_answers, score_replies
from bench.scoring.generation.texts import Text
from bench.scoring.heads import Answer
from bench.scoring.replies import Replies
from bench.scoring.tasks import PreparedTask, TaskScore
from bench.scoring.trees import Request
from replaceme.io.auto import auto_class
from replaceme.io.loading import load_tokenizer
from replaceme.lengths import Lengths


def ask_nobody(request: Request) -> Answer:
    """Where no answers are known.

    Raises:
        KeyError: always.
    """
    raise KeyError(request)


class UnloadedScorer:
    """lm-eval's model class of a checkpoint that is never run."""

    def __init__(self, folder: Path, trust_remote_code: bool = False) -> None:
        """Read configuration and tokenizer.

        Raises:
            InputError: the tokenizer cannot be loaded.
        """
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
        tokenizer = load_tokenizer(folder, trust_remote_code)
        self.lm = AnsweringLM(model, tokenizer=tokenizer, batch_size=1)

    @property
    def lengths(self) -> Lengths:
        """Which lengths of sequences the model treats alike."""
        return Lengths.of(self.lm.model.config)

    def score(
        self, task: PreparedTask, texts: list[Text] | None, source: Source = ask_nobody
    ) -> TaskScore:
        """The score of texts that were written, and of answers that are known.

        Args:
            source: of the answers.
        """
        return score_answers(self.lm, task, source, texts)

    def score_replies(self, task: PreparedTask, replies: Replies, texts: list[Text] | None) -> TaskScore:
        """The score of what a checkpoint replied, and of texts that were written."""
        return score_replies(self.lm, task, replies, texts)
