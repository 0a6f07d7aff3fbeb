"""How what takes long tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Report = Callable[[float], None]  # called with the share that is done, from 0 to 1


def no_report(_: float) -> None:
    """Tells nobody."""


def report_part(report: Report, start: float, end: float) -> Report:
    """What tells ``report`` of a part of the whole, which goes from one share to another."""
    return lambda share: report(start + share * (end - start))


@dataclass(frozen=True)
class Watcher:
    """Who is told what runs now, and which share of that is done."""

    step: Callable[[str], None] = lambda _: None
    share: Report = no_report
