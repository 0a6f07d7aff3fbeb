"""What single items of a task ask, and what cells answered, from the transcripts of a result folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import transcripts


@dataclass
class Answer:
    """What one cell answered to an item.

    Attributes:
        text: the choice that it finds likeliest, and what it wrote.
        extracted: filter → what was made of it.
        scores: metric, with its filter where it has one → score.
    """

    text: str
    extracted: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One item of a task.

    Attributes:
        number: lm-eval's doc_id.
        target: that would be right.
    """

    number: int
    prompt: str
    target: str
    answer: Answer


def read_items(folder: Path, stem: str, task: str) -> dict[int, Item]:
    """The items of a task with the answers of one cell, by number; empty where they were not kept.

    Raises:
        InputError: a file is damaged.
    """
    items: dict[int, Item] = {}
    kept = transcripts.read(folder, stem, task)
    for entry in kept[1] if kept else ():
        number = int(entry["doc_id"])
        if number not in items:
            prompt, answer = _first_request(entry), Answer(_read_text(entry))
            items[number] = Item(number, prompt, _read_target(entry), answer)
        answer = items[number].answer
        label, several = str(entry.get("filter", "none")), entry.get("metrics", [])
        if writes(entry):
            answer.extracted[label] = _read_extracted(entry)
        for metric in several:
            score = entry.get(metric)
            if isinstance(score, int | float):
                answer.scores[metric if label == "none" else f"{metric},{label}"] = float(score)
    return items


def writes(entry: dict[str, Any]) -> bool:
    """Whether an item asks for a text, and not only how likely some are."""
    return bool(_split(entry)[1])


def _split(entry: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The requests of an item for a likelihood, and those for a text, by their places."""
    places = range(len(entry.get("resps") or ()))
    texts = [place for place in places if isinstance(_arguments(entry, place).get("arg_1"), dict)]
    return [place for place in places if place not in texts], texts


def _arguments(entry: dict[str, Any], request: int) -> dict[str, Any]:
    found = entry.get("arguments", {}).get(f"gen_args_{request}", {})
    return found if isinstance(found, dict) else {}


def _first_request(entry: dict[str, Any]) -> str:
    return str(_arguments(entry, 0).get("arg_0", ""))


def _read_target(entry: dict[str, Any]) -> str:
    """The right answer; of choices that are named by number, the choice."""
    target, choices = str(entry.get("target", "")), _split(entry)[0]
    if target.isdigit() and int(target) < len(choices):
        return str(_arguments(entry, choices[int(target)]).get("arg_1"))
    return target


def _read_text(entry: dict[str, Any]) -> str:
    """The likeliest choice, and what was written, on lines of their own."""
    choices, texts = _split(entry)
    answers = [entry["resps"][place] for place in texts]
    return _plain([*([_read_choice(entry, choices)] if choices else []), *answers])


def _read_choice(entry: dict[str, Any], choices: list[int]) -> str:
    answers = [entry["resps"][place] for place in choices]
    likelihoods = [
        float(answer[0][0]) if isinstance(answer[0], list) else float(answer[0]) for answer in answers
    ]
    best = max(range(len(likelihoods)), key=likelihoods.__getitem__)
    choice = _arguments(entry, choices[best]).get("arg_1", "")
    return f"{choice} (log-likelihood {likelihoods[best]:.2f})"


def _read_extracted(entry: dict[str, Any]) -> str:
    """What a filter made of the texts."""
    made, texts = entry.get("filtered_resps"), _split(entry)[1]
    if isinstance(made, list) and len(made) == len(entry["resps"]):
        made = [made[place] for place in texts]
    return _plain(made)


def _plain(value: Any) -> str:
    """A text, or several on lines of their own."""
    if isinstance(value, list):
        return "\n".join(map(_plain, value))
    return str(value)
