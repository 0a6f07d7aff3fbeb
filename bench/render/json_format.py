"""Leaderboard as JSON: the table model itself."""

import json
from dataclasses import asdict

from bench.leaderboard import Table


def render(table: Table) -> str:
    return json.dumps(asdict(table), indent=1, ensure_ascii=False) + "\n"
