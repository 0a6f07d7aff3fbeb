"""The leaderboard, the charts and every cell's details as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Iterable

from bench.leaderboard.table import Table
from bench.records import Record
from bench.results import Results


def render(records: list[Record], table: Table, sources: Iterable[Results] = ()) -> str:
    """The page of some records and their leaderboard, the same text for the same input.

    Imports the plotting library when called, not before.

    Args:
        sources: of texts that cells wrote, which stand in their drawers.
    """
    from bench.page.document import document

    return document(records, table, sources)
