"""Leaderboard as an SVG picture of the terminal table."""

import io

from rich.console import Console
from rich.terminal_theme import MONOKAI

from bench.leaderboard import Table
from bench.render import terminal

WIDTH = 132  # characters


def render(table: Table) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, record=True, force_terminal=True, highlight=False)
    terminal.render(table, console)
    return console.export_svg(title="replaceme-bench report", theme=MONOKAI)
