"""Rows of a data set as prompts, which a model answers itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from replaceme.calibration.chats import ALIASES, Messages, UnusableError, said_in
from replaceme.calibration.data import CalibrationData
from replaceme.calibration.rows import values_of
from replaceme.calibration.sequences import RowCount, encode_messages, encode_rows, render
from replaceme.chat import USUAL_DAY
from replaceme.errors import InputError


@dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    Attributes:
        ids: the tokens that it goes on from.
        said: the text, or the messages up to the user's last.
    """

    ids: list[int]
    said: str | Messages

    def __len__(self) -> int:
        return len(self.ids)

    def answered(self, answer: str) -> str | Messages:
        """A row of the text that comes of it."""
        if isinstance(self.said, str):
            return answer  # which begins with the prompt
        return [*self.said, {"role": "assistant", "content": answer.strip()}]


def read_prompts(
    data: CalibrationData, tokenizer: Any, day: date = USUAL_DAY
) -> tuple[list[Prompt], RowCount]:
    """The first ``samples`` rows of a data set that leave room for an answer.

    Of messages those up to the user's last are asked. A text is the user's turn where the tokenizer has
    a chat template, and is continued as it stands where it has none.

    Args:
        data: with ``max_length`` for prompt and answer together.
        day: today, for a chat template that asks.

    Raises:
        InputError: the data set cannot be read, lacks the column, or has more rows that cannot be used
            than others.
    """
    where = f"{data.where}, column {data.column!r}"
    values = values_of(data.model_copy(update={"generated": None}))
    encode = partial(_encode, max_length=data.max_length, tokenizer=tokenizer, day=day)
    prompts, rows = encode_rows(values, encode, data.samples, where)
    if not prompts:
        raise InputError(f"{where}, has no prompt to answer.")
    return prompts, rows


def _encode(value: Any, max_length: int, tokenizer: Any, day: date) -> tuple[Prompt, bool]:
    """What a row asks, nothing where it is empty, and whether its system turn was moved."""
    said, folded = said_in(value), False
    if not (said.strip() if isinstance(said, str) else said):
        return Prompt([], ""), False
    if isinstance(said, str) and not tokenizer.chat_template:
        prompt = Prompt(tokenizer(said, verbose=False)["input_ids"], said)
    else:
        turns = [{"role": "user", "content": said}] if isinstance(said, str) else _up_to_question(said)
        prompt, folded = encode_messages(
            turns,
            tokenizer,
            lambda asked: Prompt(render(asked, tokenizer, day, add_generation_prompt=True), asked),
        )
    if len(prompt) >= max_length:
        raise UnusableError(
            f"it has {len(prompt)} tokens, which leaves no room for an answer in a max_length of "
            f"{max_length}"
        )
    return prompt, folded


def _up_to_question(messages: Messages) -> Messages:
    """The messages up to the user's last."""
    asked = [i for i, message in enumerate(messages) if message["role"] in ALIASES["user"]]
    if not asked:
        raise UnusableError("it holds no turn of the user")
    return messages[: asked[-1] + 1]
