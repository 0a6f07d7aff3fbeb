"""Data → sequences of which some tokens are learnt: all of a text, the answers of a chat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property, partial
from importlib.util import find_spec
from itertools import takewhile
from typing import Any

from replaceme.calibration import (
    CalibrationData,
    CalibrationText,
    Messages,
    UnusableError,
    encode_messages,
    encode_rows,
    read_text,
    render,
    said_in,
    token_hash,
    values_of,
)
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError
from replaceme.healing.settings import HealSettings
from replaceme.io import loading

IGNORED = -100  # the label of a token that is not learnt, as torch and trl have it
Render = Callable[..., Any]


@dataclass(frozen=True)
class Example:
    """A sequence to learn from.

    Attributes:
        ids: its token ids.
        labels: of each token, itself, or ``IGNORED``; the first one follows nothing and is never learnt.
        parts: lengths of the sequences that were put together in it; ``None``: it is one.
    """

    ids: list[int]
    labels: list[int]
    parts: tuple[int, ...] | None = None

    @classmethod
    def of(cls, ids: list[int], learnt: Callable[[int], bool] = lambda _: True) -> Example:
        """A sequence of which the tokens at some places are learnt."""
        labels = [token if i and learnt(i) else IGNORED for i, token in enumerate(ids)]
        return cls(ids, labels)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def learnt(self) -> int:
        """How many tokens are learnt."""
        return sum(label != IGNORED for label in self.labels)

    def features(self) -> dict[str, list[int]]:
        """As trl's collator and packing take it."""
        found = {"input_ids": self.ids, "labels": self.labels}
        return found if self.parts is None else found | {"seq_lengths": [*self.parts]}

    def cut(self, most: int) -> Example:
        """Its first tokens.

        Raises:
            UnusableError: none of them is learnt.
        """
        found = Example(self.ids[:most], self.labels[:most])
        if self.ids and not found.learnt:
            raise UnusableError(f"it holds nothing to learn in its first {most:,} tokens")
        return found


@dataclass(frozen=True)
class ExampleText(CalibrationText):
    """Sequences that are learnt in part.

    Attributes:
        examples: each of ``sequences``, with what is learnt of it.
    """

    examples: tuple[Example, ...] = ()

    @property
    def max_length(self) -> int:
        """Tokens of a sequence at most."""
        return self.data.max_length if self.data else max(map(len, self.sequences))

    @property
    def hash(self) -> str:
        """SHA-256 of all token ids and labels."""
        return token_hash([row for example in self.examples for row in (example.ids, example.labels)])


def read_healing_text(
    source: Checkpoint, settings: HealSettings, data: CalibrationData, day: date
) -> CalibrationText:
    """What a pruned model is trained on.

    Args:
        source: whose tokenizer reads it.
        data: what :meth:`HealSettings.text` gives, written where the model writes it itself.
        day: today, for a chat template that asks.

    Raises:
        InputError: the data cannot be read or used, or what the objective needs is not installed.
    """
    if not settings.is_sft:
        return source.read_text(data, day)
    if find_spec("trl") is None:
        raise InputError(
            "objective: sft needs trl, which is not installed: pip install 'replaceme[heal]'."
        )
    tokenizer = loading.load_tokenizer(source.folder, source.trust_remote_code)
    return read_examples(data, settings, tokenizer, day)


def read_examples(
    data: CalibrationData, settings: HealSettings, tokenizer: Any, day: date
) -> ExampleText:
    """Texts, chats, or prompts with what completes them, each cut to ``data.max_length`` tokens.

    Texts and completions get an EOS behind them, as trl does it. Of a chat the assistant's turns are
    learnt, of a prompt with its completion the completion. Rows are read in a seeded order, as many as
    the budget takes.

    Raises:
        InputError: the data set cannot be read, lacks a column, or holds nothing to learn.
    """
    where = f"{data.where}, column {data.column!r}"
    if data.is_plain_text:
        found = [Example.of(ids).cut(data.max_length) for ids in read_text(data, tokenizer).sequences]
        rows = None
    else:
        reader = _Reader(tokenizer, day, data.max_length, settings.loss_on_prompts)
        chosen = data.model_copy(update={"samples": 1})  # so that any part of the rows is a random one
        values = _pairs(chosen, settings.prompt) if settings.prompt else values_of(chosen)
        read = reader.pair if settings.prompt else reader.row
        budget = settings.budget
        tokens = None if budget is None else -(-11 * budget // 10)  # since a part is held back
        found, rows = encode_rows(values, read, data.samples, where, tokens)
    if not found:
        raise InputError(f"{data.where} holds no text.")
    sequences = [example.ids for example in found]
    return ExampleText(sequences, rows, data=data, day=day if rows else None, examples=tuple(found))


def _pairs(data: CalibrationData, prompt: str) -> Iterator[tuple[int, Any]]:
    """All rows as (number, (prompt, completion)), in the order in which they are to be used."""
    prompts = values_of(data.model_copy(update={"column": prompt}))
    for (number, asked), (_, completion) in zip(prompts, values_of(data), strict=True):
        yield number, (asked, completion)


@dataclass(frozen=True)
class _Reader:
    """Rows → examples.

    Attributes:
        whole: learn all tokens.
    """

    tokenizer: Any
    day: date
    max_length: int
    whole: bool

    def row(self, value: Any) -> tuple[Example, bool]:
        """A text or a chat, and whether the chat's system turn was moved."""
        said = said_in(value)
        if isinstance(said, str):
            ids = self._ids(self._ended(said)) if said.strip() else []
            return Example.of(ids).cut(self.max_length), False
        return self._chat(said, len(said))

    def pair(self, value: Any) -> tuple[Example, bool]:
        """A prompt with what completes it: two texts, or two parts of a chat."""
        prompt, completion = map(said_in, value)
        if isinstance(prompt, str) and isinstance(completion, str):
            ids = self._ids(prompt + self._ended(completion)) if completion.strip() else []
            start = _common(self._ids(prompt), ids)
            example = Example.of(ids, lambda i: self.whole or i >= start)
            return example.cut(self.max_length), False
        if isinstance(prompt, str) or isinstance(completion, str):
            raise UnusableError("of its prompt and its completion one is a text, one holds messages")
        return self._chat([*prompt, *completion], len(completion))

    def _chat(self, said: Messages, last: int) -> tuple[Example, bool]:
        """A chat, of which the assistant's turns among the last messages are learnt."""
        example, folded = encode_messages(said, self.tokenizer, partial(self._encode, last=last))
        return example.cut(self.max_length), folded

    def _encode(self, messages: Messages, last: int) -> Example:
        if self.whole:
            return Example.of(self._render(messages))
        if last >= len(messages) and (template := self._marked_template):
            options = {"return_dict": True, "return_assistant_tokens_mask": True}
            found = self._render(messages, chat_template=template, **options)
            return Example.of(found["input_ids"], lambda i: bool(found["assistant_masks"][i]))
        ids = self._render(messages)
        turns = range(max(0, len(messages) - last), len(messages))
        spans = [self._span(messages, turn, ids) for turn in turns if _is_answer(messages[turn])]
        return Example.of(ids, lambda i: any(start <= i < end for start, end in spans))

    def _span(self, messages: Messages, turn: int, ids: list[int]) -> tuple[int, int]:
        """Where a turn stands in a chat's tokens: behind what a template writes to ask for it."""
        before = messages[:turn]
        asked = self._render(before, add_generation_prompt=True) if before else []
        return _common(asked, ids), _common(self._render(messages[: turn + 1]), ids)

    @cached_property
    def _marked_template(self) -> str | None:
        """A chat template that marks the assistant's turns: the tokenizer's own, or that which trl has
        in its place; ``None``: there is none."""
        from replaceme.healing.from_trl import get_training_chat_template, has_generation_markers

        own = self.tokenizer.chat_template
        if not self.tokenizer.is_fast:
            return None
        if has_generation_markers(own):
            return str(own)
        try:
            found: str | None = get_training_chat_template(self.tokenizer)
            return found
        except ValueError:
            return None

    def _render(self, messages: Messages, **options: Any) -> Any:
        return render(messages, self.tokenizer, self.day, **options)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        return ids

    def _ended(self, text: str) -> str:
        end = self.tokenizer.eos_token or ""
        return text if text.endswith(end) else text + end


def _is_answer(message: dict[str, Any]) -> bool:
    return bool(message["role"] == "assistant")


def _common(one: list[int], other: list[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
