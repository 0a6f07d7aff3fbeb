"""Leaderboard as an SVG picture of the terminal table."""

import io
import re

from rich.console import Console
from rich.terminal_theme import MONOKAI

from bench.leaderboard.table import Table
from bench.render import terminal

WIDTH = 132  # characters


def render(table: Table) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, record=True, force_terminal=True, highlight=False)
    terminal.render(table, console)
    picture = console.export_svg(title="replaceme-bench report", theme=MONOKAI)
    # Rich loads a font from a server; leading spaces, which align numbers, get lost in some viewers
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    return picture.replace("<svg ", '<svg xml:space="preserve" ', 1)
