"""Table model → one output format per file, each a pure function of the table."""

from collections.abc import Callable

from bench.leaderboard.table import Table
from bench.render import csv_format, json_format, latex, markdown, picture

FORMATS: dict[str, Callable[[Table], str]] = {
    "markdown": markdown.render,
    "csv": csv_format.render,
    "latex": latex.render_paper,
    "json": json_format.render,
    "svg": picture.render,
}
SUFFIXES = {name: {"markdown": "md", "latex": "tex"}.get(name, name) for name in FORMATS}
