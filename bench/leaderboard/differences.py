"""Where a published table contradicts itself by more than rounding explains."""

from __future__ import annotations

from dataclasses import dataclass

from bench.leaderboard.averages import mean
from bench.leaderboard.published_file import Published, PublishedRow


@dataclass(frozen=True)
class Difference:
    """A printed average or RP that its own table contradicts by more than rounding."""

    row: PublishedRow
    column: str
    printed: str
    recomputed: float
    of: str

    def __str__(self) -> str:
        digits = len(self.printed.partition(".")[2])
        number = f"{self.recomputed:.{digits}f}"
        if self.printed.startswith("."):
            number = number.removeprefix("0")
        name = ", ".join(filter(None, [self.row.model, self.row.method, self.row.detail]))
        return f"{name}: {self.column} printed {self.printed}; {self.of} {number}"


def differences(published: Published) -> list[Difference]:
    """Where a table contradicts itself by more than what rounding of the printed numbers explains.

    An average is compared with the mean of the printed tasks, an RP with the ratio of printed averages.
    """
    found = []
    for row in published.rows:
        printed = published.printed(row)
        tasks = published.averaged(row)
        if len(tasks) > 1 and "average" in printed:
            low, high = mean([_low(t) for t in tasks]), mean([_high(t) for t in tasks])
            if not _overlap(printed["average"], low, high):
                of = f"mean of the {len(tasks)} printed tasks"
                middle = mean([float(task) for task in tasks])
                found.append(_difference(row, "average", printed, middle, of))
        whole = _printed_baseline(published, row.model)
        if "rp" in printed and "average" in printed and whole:
            part = printed["average"]
            scale = _rp_scale(published)
            low = scale * _low(part) / _high(whole)
            high = scale * _high(part) / _low(whole)
            if not _overlap(printed["rp"], low, high):
                of = f"{part} / {whole} is"
                found.append(_difference(row, "rp", printed, scale * float(part) / float(whole), of))
    return found


def _difference(
    row: PublishedRow, key: str, printed: dict[str, str], number: float, of: str
) -> Difference:
    name = {"average": "average", "rp": "RP"}[key]
    return Difference(row, name, printed[key], number, of)


def _rp_scale(published: Published) -> float:
    return 100 if published.columns["rp"].unit or published.unit else 1


def _half(printed: str) -> float:
    """Half a unit of the last printed digit."""
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])


def _low(printed: str) -> float:
    return float(printed) - _half(printed)


def _high(printed: str) -> float:
    return float(printed) + _half(printed)


def _overlap(printed: str, low: float, high: float) -> bool:
    tiny = 1e-9
    return _low(printed) <= high + tiny and low <= _high(printed) + tiny


def _printed_baseline(published: Published, model: str) -> str | None:
    if elsewhere := published.baselines.get(model):
        return elsewhere.average
    rows = [row for row in published.rows if row.model == model and row.layers == 0]
    return published.printed(rows[0]).get("average") if rows else None
