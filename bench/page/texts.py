"""What cells wrote, beside what the intact model wrote, for their drawers."""

from __future__ import annotations

from collections.abc import Iterable

from bench.items import Item, read_items
from bench.page.drawer import DrawerSection
from bench.results import Key, Results

MOST = 20  # items of a task
LONGEST = 400  # characters of a text, and of the end of a prompt


def list_texts(sources: Iterable[Results]) -> dict[Key, list[DrawerSection]]:
    """A section for each task that a cell wrote texts for, as far as these were kept.

    Raises:
        InputError: a file of what was answered is damaged.
    """
    return {
        key: sections
        for results in sources
        for key, stem in results.cells.items()
        if (sections := _list_sections(results, stem))
    }


def _list_sections(results: Results, stem: str) -> list[DrawerSection]:
    record = results.records[stem]
    baseline = results.cells.get((record.model, 0, "baseline")) if record.layers else None
    sections = []
    for task, scored in record.quality.items():
        if scored.generation is None:
            continue
        items = read_items(results.folder, stem, task)
        intact = read_items(results.folder, baseline, task) if baseline else {}
        if items:
            sections.append(_describe(task, items, intact))
    return sections


def _describe(task: str, items: dict[int, Item], intact: dict[int, Item]) -> DrawerSection:
    """The first items of a task; those with another text than the intact model's where there is one."""
    other = [i for i in items if i in intact and items[i].answer.text != intact[i].answer.text]
    chosen = (other if intact else [*items])[:MOST]
    rows = []
    for number in chosen:
        item = items[number]
        texts = [intact[number].answer.text] if intact else []
        cells = [_end(item.prompt), item.target, *texts, item.answer.text]
        rows.append([str(number), *(cell[:LONGEST] for cell in cells)])
    columns = ["item", "end of the prompt", "target", *(["intact model"] if intact else []), "written"]
    said = f"The first {len(rows)} of {len(items)} items."
    if intact:
        said = f"{len(other)} of {len(items)} texts are not those of the intact model"
        said += f"; the first {len(rows)}:" if len(other) > len(rows) else "."
    return DrawerSection(f"Texts of {task}", columns=columns, rows=rows, texts=[said], folded=True)


def _end(prompt: str) -> str:
    """The last lines of a prompt."""
    return prompt if len(prompt) <= LONGEST else f"… {prompt[-LONGEST:]}"
