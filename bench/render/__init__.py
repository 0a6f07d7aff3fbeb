"""Table model → one output format per file, each a pure function of the table."""

from collections.abc import Callable

from bench.leaderboard import Table
from bench.render import csv_format, json_format, markdown, picture

FORMATS: dict[str, Callable[[Table], str]] = {
    "markdown": markdown.render,
    "csv": csv_format.render,
    "json": json_format.render,
    "svg": picture.render,
}
