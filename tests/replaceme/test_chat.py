"""Chat templates say the same on every day."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from transformers.utils import chat_template_utils

import replaceme
from replaceme.calibration import tokenize
from replaceme.chat import Day, apply_chat_template, template_options

TURNS = "{% for m in messages %}<|begin|>{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
# As they are written in Llama 3.1 to 3.3, in gpt-oss (inside a macro), and in Mistral Small.
DATED = {
    "llama": "{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}Today Date: {{ date_string }}",
    "macro": "{% macro head() %}{{ 'Current date: ' + strftime_now('%Y-%m-%d') }}{% endmacro %}"
    "{{ head() }}",
    "clock": "{{ strftime_now('%A, %d %B %Y, %H:%M:%S') }}",
}
SAID = [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def dated(tokenizer: Any) -> Callable[[str], Any]:
    """The small tokenizer with one of the templates."""

    def dated(name: str) -> Any:
        changed = copy.deepcopy(tokenizer)
        changed.chat_template = DATED[name] + TURNS
        return changed

    return dated


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Has transformers believe that it is another day."""

    def set_clock(now: datetime) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls) -> datetime:  # type: ignore[override]
                return now

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)

    return set_clock


@pytest.mark.parametrize(
    "name, said",
    [
        ("llama", "Today Date: 26 Jul 2024"),
        ("macro", "Current date: 2024-07-26"),
        ("clock", "Friday, 26 July 2024, 00:00:00"),
    ],
)
def test_dated_template_says_the_same_on_every_day(
    dated: Callable[[str], Any], set_clock: Callable[[datetime], None], name: str, said: str
) -> None:
    chosen, plain = dated(name), set()
    for now in (datetime(2026, 11, 25, 13), datetime(2027, 1, 1)):
        set_clock(now)
        plain.add(chosen.apply_chat_template(SAID, tokenize=False))
        text = apply_chat_template(chosen, SAID, tokenize=False)
        assert text == f"{said}<|begin|>user: Hello?<|end|>"
        (ids,) = tokenize([SAID], chosen, 256)
        assert chosen.decode(ids) == text
    assert len(plain) == 2, "the clock was not changed"


def test_another_day_is_written_as_transformers_would_write_it_then(
    dated: Callable[[str], Any], set_clock: Callable[[datetime], None]
) -> None:
    day = date(2031, 2, 3)
    set_clock(datetime(2031, 2, 3))
    for name in DATED:
        wanted = dated(name).apply_chat_template(SAID, tokenize=False)
        assert apply_chat_template(dated(name), SAID, day, tokenize=False) == wanted


def test_the_clock_is_fixed_in_any_of_several_templates_and_in_one_given(
    tokenizer: Any,
) -> None:
    several = copy.deepcopy(tokenizer)
    several.chat_template = {"default": TURNS, "tool_use": DATED["llama"] + TURNS}
    for chosen, options in (
        (several, {"chat_template": "tool_use"}),
        (tokenizer, {"chat_template": DATED["llama"] + TURNS}),
    ):
        text = apply_chat_template(chosen, SAID, date(2020, 1, 2), tokenize=False, **options)
        assert text.startswith("Today Date: 02 Jan 2020<")


def test_a_template_that_asks_for_no_date_is_given_none(tokenizer: Any) -> None:
    assert template_options(tokenizer) == {}
    assert apply_chat_template(tokenizer, SAID, tokenize=False) == "<|begin|>user: Hello?<|end|>"


def test_library_calibrates_on_the_same_text_on_every_day(
    make_model: Callable[..., Any],
    dated: Callable[[str], Any],
    set_clock: Callable[[datetime], None],
    texts: list[str],
) -> None:
    chats = [[{"role": "user", "content": text}] for text in texts[:20]]

    def weight(now: datetime, **options: Any) -> Any:
        set_clock(now)
        model = make_model(num_hidden_layers=4)
        done = replaceme.prune(model, dated("llama"), chats, layers=1, solver="lstsq", **options)
        return done.model.model.layers[done.blocks[0].start - 1].mlp.down_proj.weight

    first, later = weight(datetime(2026, 11, 25)), weight(datetime(2026, 11, 26))
    other = weight(datetime(2026, 11, 26), day=date(2026, 11, 26))
    assert bool((first == later).all())
    assert not bool((first == other).all())


class Dated(BaseModel):
    day: Day


@pytest.mark.parametrize("value", ["26 Jul 2024", "2024-13-01", "20240726", 20240726, None, ["2024"]])
def test_a_day_is_year_month_and_day(value: Any) -> None:
    with pytest.raises(ValidationError, match="give a day as year-month-day, such as 2024-07-26; got"):
        Dated(day=value)
    assert Dated.model_validate({"day": "2024-07-26"}).day == date(2024, 7, 26)
