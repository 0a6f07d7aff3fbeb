"""The leaderboard, the charts and every cell's details as one HTML file that needs no network."""

from __future__ import annotations

from bench.leaderboard.table import Table
from bench.records import Record


def render(records: list[Record], table: Table) -> str:
    """The page of some records and their leaderboard, the same text for the same input.

    Imports the plotting library when called, not before.
    """
    from bench.page.document import document

    return document(records, table)
