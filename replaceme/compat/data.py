"""The texts of a published YAML → token sequences, as the published code makes them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from replaceme.calibration import CalibrationText, RowCount, padding_token, read_text, rows_of
from replaceme.chat import USUAL_DAY, apply_chat_template
from replaceme.compat.config import FINEWEB, MIXED, ORCA
from replaceme.errors import InputError

if TYPE_CHECKING:
    from replaceme.compat.config import SeedConfig

FIRST_SPEAKERS = {"human", "user"}


def read_published_text(config: SeedConfig, tokenizer: Any) -> CalibrationText:
    """The tokens of the first rows, in their order, cut to ``max_length``.

    Raises:
        InputError: the data set cannot be read, lacks the column, or holds neither texts nor
            conversations.
    """
    data = config.data
    if data.is_plain_text:
        text = read_text(data, tokenizer)
    else:
        encoded = [
            tokenizer(text, truncation=True, max_length=data.max_length, verbose=False)["input_ids"]
            for text in _texts(config, tokenizer)
        ]
        sequences = [ids for ids in encoded if ids]
        if not sequences:
            raise InputError(f"calibration dataset {data.dataset!r} holds no text.")
        rows = RowCount(used=len(sequences), empty=len(encoded) - len(sequences))
        text = CalibrationText(sequences, rows, day=USUAL_DAY)
    pad = padding_token(tokenizer) if config.compat else None
    said = data.model_copy(update={"samples": len(text.sequences)})
    return replace(text, counted_pad=pad, data=said)


def _texts(config: SeedConfig, tokenizer: Any) -> list[str]:
    if config.dataset != MIXED:
        where = f"dataset_column: {config.data.column!r} of {config.dataset!r}"
        rows = rows_of(config.data, in_order=True)
        return [_text(row, tokenizer, f"{where}, row {n}") for n, row in enumerate(rows, start=1)]
    size = config.dataset_size
    if size is None or size < 2:
        raise InputError(f"dataset_size: {MIXED} needs a number of rows, at least 2.")
    halves = {ORCA: size // 2, FINEWEB: size - size // 2}
    return [
        text
        for name, count in halves.items()
        for text in _texts(config.model_copy(update={"dataset": name, "dataset_size": count}), tokenizer)
    ]


def _text(row: Any, tokenizer: Any, where: str) -> str:
    if isinstance(row, str):
        return row
    if not isinstance(row, list) or not all(isinstance(message, dict) for message in row):
        raise InputError(f"{where}: it holds neither texts nor conversations.")
    return first_turn(row, tokenizer, where)


def first_turn(conversation: list[dict[str, Any]], tokenizer: Any, where: str) -> str:
    """The first question and its answer, without a system prompt, in the model's chat format.

    Args:
        conversation: messages with ``from`` and ``value``, or ``role`` and ``content``.
        where: what to call the conversation if it is not one.

    Raises:
        InputError: the model has no chat format, or the conversation no answer.
    """
    if not tokenizer.chat_template:
        raise InputError(f"{where}: a conversation needs a model whose tokenizer has a chat template.")
    pairs = [
        (message.get("from", message.get("role")), message.get("value", message.get("content")))
        for message in conversation
    ]
    start = 0 if pairs and pairs[0][0] in FIRST_SPEAKERS else 1
    contents = [content for _, content in pairs[start : start + 2]]
    if len(contents) < 2 or not all(isinstance(content, str) for content in contents):
        raise InputError(f"{where}: the conversation does not begin with a question and an answer.")
    messages = [
        {"role": role, "content": content}
        for role, content in zip(("user", "assistant"), contents, strict=True)
    ]
    return str(apply_chat_template(tokenizer, messages, tokenize=False))
