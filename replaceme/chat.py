"""Chat templates as of a fixed day, so that a conversation is the same text whenever it is rendered.

Templates of Llama 3, SmolLM3, Granite, gpt-oss and others write today's date into the system turn.
"""

from __future__ import annotations

from datetime import date, datetime, time
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

USUAL_DAY = date(2024, 7, 26)  # that which Llama 3's own template falls back to
CLOCK = "strftime_now"  # what transformers calls its clock in a template


def _day(value: Any) -> Any:
    if isinstance(value, date):
        return value
    try:
        day = date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        day = None
    if day is None or day.isoformat() != value:
        raise ValueError(f"give a day as year-month-day, such as {USUAL_DAY}; got {value!r}")
    return day


Day = Annotated[
    date,
    BeforeValidator(_day),
    WithJsonSchema({"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"}),
]


def template_options(
    tokenizer: Any, day: date = USUAL_DAY, template: str | None = None
) -> dict[str, Any]:
    """What to give a tokenizer's chat template so that it takes ``day`` for today: nothing where it
    does not ask.

    Args:
        template: used instead of the tokenizer's own.
    """
    asks = CLOCK in f"{getattr(tokenizer, 'chat_template', None)}{template}"
    return {CLOCK: datetime.combine(day, time()).strftime} if asks else {}


def apply_chat_template(
    tokenizer: Any, messages: list[dict[str, Any]], day: date = USUAL_DAY, **options: Any
) -> Any:
    """``tokenizer.apply_chat_template(messages, **options)`` as of ``day``."""
    dated = template_options(tokenizer, day, options.get("chat_template"))
    return tokenizer.apply_chat_template(messages, **(dated | options))
