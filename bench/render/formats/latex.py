r"""Leaderboard as LaTeX tables in the form of the paper's: methods by tasks, Avg-acc and RP last.

The output is to be ``\input``; it needs booktabs and graphicx, is plain ASCII, and a table
that is too wide for the page is made smaller.
"""

import re
from dataclasses import replace

from bench.leaderboard.table import Column, Group, Mark, Row, Table, show
from bench.leaderboard.view import as_in_the_paper
from bench.render.escape import latex as escape
from bench.render.wording import QUOTED, failures, legend, signs

SUFFIX = "tex"
MANY = 11  # columns from which on the type is smaller
SERVED = {"latency", "throughput", "ttft", "tpot", "speedup", "weights", "kv", "peak"}
HEAD = r"% by replaceme-bench report; needs \usepackage{booktabs,graphicx}"


def render(table: Table) -> str:
    """With the columns of the paper's tables, or with those that were asked for."""
    table = table if table.chosen else as_in_the_paper(table)
    measured = [_float(table, _caption(table))] if table.groups else []
    quoted = [_float(part, _quotation(part)) for part in table.quoted]
    alone = [f"% {escape(note)}" for note in table.notes if not table.groups]
    return "\n".join([HEAD, *alone, *measured, *quoted]) + "\n"


def _quotation(table: Table) -> str:
    return escape(f"{table.title}. {QUOTED}; from {table.source}.")


def _caption(table: Table) -> str:
    models = list(dict.fromkeys(row.model for row in table.rows))
    named = escape(", ".join(models[:3])) + (" and others" if len(models) > 3 else "")
    return f"{named} with layers removed."


def _float(table: Table, caption: str) -> str:
    columns, mark = table.columns, table.mark or "bold"
    ends = "".join("l" if column.textual else "r" for column in columns)
    body = [line for i, group in enumerate(table.groups) for line in _group(group, columns, mark, i)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{_slug(table)}}}",
            r"\small" if len(columns) < MANY else r"\footnotesize",
            r"\setlength{\tabcolsep}{4pt}",
            r"\sbox0{%",
            rf"\begin{{tabular}}{{@{{}}{ends}@{{}}}}",
            r"\toprule",
            *_heads(columns),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
            r"\par\smallskip",
            r"\begin{minipage}{\linewidth}\footnotesize\raggedright",
            *_notes(table),
            r"\end{minipage}",
            r"\end{table}",
        ]
    )


def _slug(table: Table) -> str:
    text = table.source or next((row.model for row in table.rows), "")
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "results"


def _heads(columns: list[Column]) -> list[str]:
    """Two lines of headers: the name, and below it metric or unit."""
    lines = [_split(column) for column in columns]
    return [_line([line[i] for line in lines]) for i in range(2 if any(x[1] for x in lines) else 1)]


def _split(column: Column) -> tuple[str, str]:
    first, _, last = column.header.rpartition(" ")
    if column.key == "training_free":
        first, last = "training-", "free"
    unit = f"({column.unit})" if column.unit not in ("", "%") else ""
    if not first:
        return escape(last), escape(unit)
    return escape(first), escape(" ".join(filter(None, [last, unit])))


def _group(group: Group, columns: list[Column], mark: Mark, index: int) -> list[str]:
    lines = [r"\midrule"] if index else []
    served = any(column.kind in SERVED for column in columns)
    if heading := (group if served else replace(group, place="")).heading:
        title = rf"\textit{{{escape(heading)}}}"
        lines.append(rf"\multicolumn{{{len(columns)}}}{{@{{}}l}}{{{title}}} \\")
    for i, rows in enumerate(group.sections):
        lines += [r"\addlinespace"] * (i > 0)
        lines += [_line([_cell(row, column, mark) for column in columns]) for row in rows]
    return lines


def _cell(row: Row, column: Column, mark: Mark) -> str:
    value = row.values[column.key]
    if column.kind == "task":
        value = replace(value, stderr=None)
    number, space, error = escape(show(value, column)).partition(r" $\pm$")
    if value.best and mark == "bold":
        number = rf"\textbf{{{number}}}"
    text = f"{number}{space}{error}"
    return " ".join([text, *map(escape, signs(row, mark))]) if column.key == "label" else text


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _notes(table: Table) -> list[str]:
    failed = [text for group in table.groups for text in failures(group.rows)]
    headers = ("task scores" if c.kind == "task" else c.header for c in table.columns if c.unit == "%")
    percent = ", ".join(dict.fromkeys(headers))
    notes = [f"In percent: {percent}."] if percent else []
    notes += [*legend(table, "bold"), *table.notes, *_errors(table), *failed]
    return [rf"{escape(note)}\par" for note in notes]


def _errors(table: Table) -> list[str]:
    tasks = [column.key for column in table.columns if column.kind == "task"]
    errors = [row.values[key].stderr for row in table.rows for key in tasks]
    known = [error for error in errors if error is not None]
    return [f"Standard errors of the tasks: {min(known):.1f} to {max(known):.1f}."] if known else []
