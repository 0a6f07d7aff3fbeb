"""A comparison as Markdown, for a comment on a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from bench.compare.comparison import Comparison
from bench.render.comparison import (
    AVERAGE_HEADS,
    LEFT,
    Line,
    average_rows,
    basis,
    brief,
    counts,
    lines,
    made_differently,
    remarks,
    summary,
    table,
)
from bench.render.escape import markdown

LONG = 60_000  # characters; a comment on GitHub holds 65,536


def render(comparison: Comparison) -> str:
    """The verdict first; what is not significant is folded away."""
    told, same, equal = lines(comparison)
    icon = "❌" if not comparison.passes else "⚠️" if comparison.inconclusive else "✅"
    sources = f"base {markdown(comparison.base)}, new {markdown(comparison.new)}: {counts(comparison)}."
    parts = [f"### {icon} {summary(comparison)}", sources]
    if told:
        parts.append(_values(comparison, brief(told)))
    if hidden := len(told) - len(brief(told)):
        parts.append(f"{hidden} more of the same kinds are not shown.")
    if said := remarks(comparison):
        parts.append("\n".join(f"- {markdown(remark)}" for remark in said))
    rows, unchanged = average_rows(comparison)
    if rows:
        parts.append(_table(AVERAGE_HEADS, rows, (0,)))
    if unchanged:
        parts.append(f"Averages of {unchanged} cells are as they were.")
    made = [f"made differently: {change}" for change in made_differently(comparison)]
    parts.append("\n".join(f"- {markdown(sentence)}" for sentence in [*made, *basis(comparison)]))
    folded = _folded(comparison, same, len(equal))
    body = "\n\n".join(parts)
    return f"{body}\n\n{folded}" if len(body) + len(folded) < LONG else f"{body}\n"


def _folded(comparison: Comparison, same: Sequence[Line], equal: int) -> str:
    rest = f"{equal} values are equal item by item.\n" if equal else ""
    if not same:
        return rest
    head = f"<details><summary>{len(same)} not significant</summary>"
    return f"{head}\n\n{_values(comparison, same)}\n\n</details>\n\n{rest}"


def _values(comparison: Comparison, shown: Sequence[Line]) -> str:
    """The table of verdicts, with the metric behind the task."""
    heads, *rows = table(comparison, shown)
    for line, texts in zip(shown, rows, strict=True):
        if line.verdict.metric:
            texts[2] += f" {line.verdict.metric}"
    return _table(heads, rows, LEFT)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    rules = ["---" if index in left else "---:" for index in range(len(heads))]
    content = [_row(heads), _row(rules), *(_row([markdown(text) for text in row]) for row in rows)]
    return "\n".join(content)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
