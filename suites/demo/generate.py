"""Writes the JSONL files of the demo tasks; the same on every run and every machine.

python generate.py            writes a .jsonl beside each .yaml
python generate.py --check    exit status 1 if one of them differs from what would be written
python generate.py --stats    duplicates and biases of the items

A multiple-choice item has ``choices`` and the index ``gold`` of the right one, and a ``prompt`` before
them unless the choices are whole sentences. The others have a ``prompt`` and the ``target`` after it,
and ``answer`` where a part of the target counts.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from demo_texts import causes, facts, grammar, lastword, profiles, retrieval, sums

Item = dict[str, Any]

FOLDER = Path(__file__).resolve().parent
SEED = 20254
ITEMS = 400  # of every task but causes, which has all its pairs
GENERATED = 120  # items of a task whose answers are generated
CHOICES = 4  # choices of a fact, and facts of a passage
GAP = re.compile(r"\{([^|{}]*)\|([^|{}]*)\}")  # {good|bad}
WORD = re.compile(r"<(\w+?)(?:\.(\d))?>")  # <list> or <list.form>


def words(text: str, separator: str = ";") -> list[str]:
    """The entries of a list in one text."""
    return [" ".join(entry.split()) for entry in text.split(separator)]


def shuffled_golds(rng: random.Random, count: int, choices: int) -> list[int]:
    """``count`` positions of the right choice, all equally often, in random order."""
    golds = [i % choices for i in range(count)]
    rng.shuffle(golds)
    return golds


def fact_items(rng: random.Random) -> Iterator[Item]:
    """Completions of a fact; the wrong choices are answers of other facts of the same table."""
    known = [
        (prompt, *words(pair, "="), [words(other, "=")[1] for other in words(table)])
        for prompt, table in facts.RELATIONS.items()
        for pair in words(table)
    ]
    chosen = rng.sample(known, ITEMS)
    golds = shuffled_golds(rng, ITEMS, CHOICES)
    for (prompt, subject, answer, answers), gold in zip(chosen, golds, strict=True):
        rng.shuffle(answers)  # an answer that is often right is also often a wrong choice
        choices = [other for other in dict.fromkeys(answers) if other != answer][: CHOICES - 1]
        choices.insert(gold, answer)
        yield {"prompt": prompt.format(subject), "choices": choices, "gold": gold}


def grammar_items(rng: random.Random) -> Iterator[Item]:
    """Pairs of sentences that differ in one place; all patterns equally often."""
    patterns = [(kind, text) for kind, texts in grammar.PARADIGMS.items() for text in texts]
    lists = {name: words(entries) for name, entries in grammar.WORDS.items()}
    seen: set[str] = set()
    for number, gold in enumerate(shuffled_golds(rng, ITEMS, 2)):
        if number % len(patterns) == 0:
            rng.shuffle(patterns)
        kind, pattern = patterns[number % len(patterns)]
        while True:
            forms = {name: words(rng.choice(entries), "/") for name, entries in lists.items()}
            text = WORD.sub(lambda slot, forms=forms: forms[slot[1]][int(slot[2] or 1) - 1], pattern)
            pair = [GAP.sub(side, text) for side in (r"\1", r"\2")]
            if pair[0] not in seen:
                break
        seen.add(pair[0])
        yield {"kind": kind, "choices": pair if gold == 0 else pair[::-1], "gold": gold}


def lastword_items(rng: random.Random) -> Iterator[Item]:
    """Short texts without their last word; the fillings of one text get different names."""
    items = []
    for block in lastword.TEXTS.strip().split("\n\n"):
        text, fillings = block.split("\n    = ")
        rows = words(fillings)
        her = rng.sample(words(lastword.HER), 2 * len(rows))
        him = rng.sample(words(lastword.HIM), 2 * len(rows))
        for row in rows:
            names = {"her": her.pop(), "her2": her.pop(), "him": him.pop(), "him2": him.pop()}
            filled = " ".join(text.split()).format(*row.split("/"), **names)
            prompt, _, target = filled.rpartition(" ")
            items.append({"prompt": prompt, "target": f" {target.rstrip('.')}"})
    yield from rng.sample(items, ITEMS)


def retrieval_items(rng: random.Random) -> Iterator[Item]:
    """A passage of four made-up facts and the cue for one of them; the asked place is balanced."""
    scenes = [scene.splitlines() for scene in retrieval.SCENES.strip().split("\n\n")]
    for number, asked in enumerate(shuffled_golds(rng, ITEMS, CHOICES)):
        opening, aside, *known = scenes[number % len(scenes)]
        told = [words(line, "|") for line in rng.sample(known, CHOICES)]
        values = [rng.choice(words(retrieval.VALUES[WORD.search(fact)[1]])) for fact, _ in told]
        passage = [WORD.sub(value, fact) for (fact, _), value in zip(told, values, strict=True)]
        text = " ".join([opening, *passage, aside, told[asked][1]])
        prompt = text.format(name=rng.choice(words(retrieval.NAMES)))
        target = values[asked] if prompt.endswith('"') else f" {values[asked]}"
        yield {"prompt": prompt, "target": target, "values": values, "asked": asked}


def cause_items(rng: random.Random) -> Iterator[Item]:
    """Contexts with their own ending and that of their partner: both endings are right once."""
    blocks = causes.PAIRS.strip().split("\n\n")
    for block in blocks:
        pair = [words(line, "|") for line in block.splitlines()]
        golds = shuffled_golds(rng, 2, 2)
        for i, gold in enumerate(golds):
            right, wrong = pair[i][1], pair[1 - i][1]
            yield {
                "prompt": pair[i][0],
                "choices": [right, wrong] if gold == 0 else [wrong, right],
                "gold": gold,
            }


def profile_items(rng: random.Random) -> Iterator[Item]:
    """Four fields in random order, and the sentence that they fill."""
    known = {field: words(values) for field, values in profiles.VALUES.items()}
    for _ in range(GENERATED):
        told = {field: rng.choice(values) for field, values in known.items()}
        fields = [f"{field}: {value}" for field, value in told.items()]
        rng.shuffle(fields)
        yield {"prompt": "; ".join(fields), "target": profiles.SENTENCE.format(**told)}


def sum_items(rng: random.Random) -> Iterator[Item]:
    """Word problems with their worked answer; problems and sums are balanced."""
    problems = sums.PROBLEMS.strip().splitlines()
    names, things, numbers = words(sums.NAMES), words(sums.THINGS), words(sums.NUMBERS)
    digits = range(2, len(numbers) + 1)
    pairs = [pair for pair in product(digits, digits) if pair not in sums.SHOWN]
    totals = range(2 * digits[0], 2 * digits[-1] + 1)
    for number, place in enumerate(shuffled_golds(rng, GENERATED, len(totals))):
        total = totals[place]
        a, b = rng.choice([pair for pair in pairs if sum(pair) == total])
        name, other = rng.sample(names, 2)
        told = {"a": numbers[a - 1], "b": numbers[b - 1], "name": name, "other": other}
        yield {
            "prompt": problems[number % len(problems)].strip().format(things=rng.choice(things), **told),
            "target": f"{a} + {b} = {total}. The answer is {total}.",
            "answer": str(total),
        }


TASKS: dict[str, Callable[[random.Random], Iterator[Item]]] = {
    "facts": fact_items,
    "grammar": grammar_items,
    "lastword": lastword_items,
    "retrieval": retrieval_items,
    "causes": cause_items,
    "profiles": profile_items,
    "sums": sum_items,
}


def generate(task: str) -> list[Item]:
    """The items of a task, from a seed of its own."""
    return list(TASKS[task](random.Random(f"{SEED} {task}")))


def jsonl(items: list[Item]) -> str:
    """Items as the text of a JSONL file."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def whole_text(item: Item) -> str:
    """Everything a model sees of an item, with its right answer."""
    answer = item.get("target") or item["choices"][item["gold"]]
    return f"{item.get('prompt', '')} {answer}"


def duplicates(items: list[Item]) -> int:
    """How many items have the same text and right answer as an earlier one."""
    return len(items) - len({whole_text(item) for item in items})


def baselines(items: list[Item]) -> dict[str, float]:
    """Accuracy of rules that do not read the text; ties count as a guess among the tied.

    For retrieval the choices are the values of the passage. "usual answer" takes the choice that is
    most often right in the other half of the items.
    """
    choices = [item.get("choices") or item["values"] for item in items]
    golds = [item.get("gold", item.get("asked")) for item in items]
    answers = [texts[gold] for texts, gold in zip(choices, golds, strict=True)]
    half = len(items) // 2
    known = [Counter(answers[half:]), Counter(answers[:half])]
    rules: dict[str, Callable[[int, str], int]] = {
        "longest": lambda _, text: len(text),
        "shortest": lambda _, text: -len(text),
        "usual answer": lambda i, text: known[i >= half][text],
    }
    found = {f"position {k + 1}": golds.count(k) / len(golds) for k in range(len(choices[0]))}
    for name, rank in rules.items():
        hits = 0.0
        for i, (texts, gold) in enumerate(zip(choices, golds, strict=True)):
            ranks = [rank(i, text) for text in texts]
            hits += (ranks[gold] == max(ranks)) / ranks.count(max(ranks))
        found[name] = hits / len(items)
    return found


def stats(task: str, items: list[Item]) -> str:
    """Duplicates and biases of a task, as text."""
    lines = [f"{task}: {len(items)} items, {duplicates(items)} duplicates"]
    if "choices" in items[0] or "values" in items[0]:
        lines += [f"  always {name}: {value:.1%}" for name, value in baselines(items).items()]
    else:
        targets = Counter((item.get("answer") or item["target"]).strip() for item in items)
        often = ", ".join(f"{text} {count / len(items):.1%}" for text, count in targets.most_common(3))
        lines += [f"  {len(targets)} different answers; most frequent: {often}"]
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Writes the JSONL files of the demo tasks.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare with the files; write nothing")
    mode.add_argument("--stats", action="store_true", help="print duplicates and biases; write nothing")
    arguments = parser.parse_args()
    stale = []
    for task in TASKS:
        path, items = FOLDER / f"{task}.jsonl", generate(task)
        if arguments.stats:
            print(stats(task, items))
        elif not arguments.check:
            path.write_text(jsonl(items), encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != jsonl(items):
            stale.append(path.name)
    if stale:
        sys.exit(f"{', '.join(stale)}: not what generate.py writes. Run 'python generate.py'.")


if __name__ == "__main__":
    main()
