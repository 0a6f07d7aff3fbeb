"""Where the time of a batch goes: until the first tokens, and after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from bench.plots.facts import load_name, measured, name_of
from bench.plots.figure import Figure, number
from bench.plots.marks import Rows, chart, finished, tips
from bench.plots.style import BASELINE, Style
from bench.records import Record
from bench.serving import Workload

PARTS = ["first token", "further tokens"]


def breakdown(name: str, records: Sequence[Record], load: Workload, where: str, style: Style) -> Figure:
    """Median TTFT and TPOT × further tokens of every shape that was measured.

    Args:
        records: the latest cells of one model that were served under the same conditions ``where``.
    """
    title = f"Where the time goes, batch of {load.batch_size}"
    caption = (
        f"{where}; {load_name(load)}. Median time to the first token, and median time per further token "
        f"× {load.output_len - 1}. Measured once per shape."
    )
    found = [row for shape, record in _shapes(records).items() if (row := _row(shape, record, load))]
    if not found:
        return Figure(name, records[0].model, title, caption, missing="Nothing was measured.")
    return Figure(
        name,
        records[0].model,
        title,
        caption,
        _summarise(found),
        _spec(found, style),
        ["shape", "TTFT (ms)", "TPOT (ms)", "tokens/s", "requests/s"],
        [[row[key] for key in ("shape", "ttft", "tpot", "rate", "requests")] for row in found],
    )


def _summarise(found: Rows) -> str:
    """How many shapes there are, and which is the fastest of those without noise."""
    rapid = min((row for row in found if not row["noisy"]), key=lambda row: row["total"], default=None)
    if rapid is None:
        return f"{len(found)} shapes, all noisy."
    return f"{len(found)} shapes; the shortest is {rapid['shape']} with about {rapid['total']:,.0f} ms."


def _shapes(records: Sequence[Record]) -> dict[str, Record]:
    """What was measured, readable → one of the cells that share it."""
    found: dict[str, Record] = {}
    seen: set[str] = set()
    for record in records:
        key = record.serving.identity.digest if record.serving else None
        key = f"{record.layers} {key}"
        if record.serving is None or key in seen:
            continue
        seen.add(key)
        shape = f"{record.layers} removed" if record.layers else BASELINE
        found[shape if shape not in found else f"{shape}, {name_of(record)}"] = record
    return found


def _row(shape: str, record: Record, load: Workload) -> dict[str, Any] | None:
    result = measured(record, load)
    if result is None:
        return None
    noisy = record.serving is not None and load in record.serving.noise
    first = 1e3 * result.ttft_seconds.p50
    each = 1e3 * result.tpot_seconds.p50
    return {
        "shape": f"{shape}, noisy" if noisy else shape,
        "noisy": noisy,
        "first": first,
        "further": each * (load.output_len - 1),
        "total": first + each * (load.output_len - 1),
        "ttft": number(first),
        "tpot": number(each, 2),
        "rate": number(result.output_tokens_per_second),
        "requests": number(result.requests_per_second, 2),
    }


def _spec(found: Rows, style: Style) -> dict[str, Any]:
    rows = [
        {**row, "part": part, "ms": row[key], "index": index}
        for row in found
        for index, (part, key) in enumerate(zip(PARTS, ("first", "further"), strict=True))
    ]
    colours = [style.colours["s1"], style.colours["s0"]]
    bars = (
        chart(rows)
        .mark_bar()
        .encode(
            x=alt.X("ms:Q", title="time of a batch (ms)", axis=alt.Axis(tickCount=5)),
            y=alt.Y(
                "shape:N",
                title=None,
                sort=[row["shape"] for row in found],
                axis=alt.Axis(labelLimit=style.label_limit, ticks=False),
            ),
            color=alt.Color(
                "part:N", scale=alt.Scale(domain=PARTS, range=colours), legend=alt.Legend(title=None)
            ),
            order=alt.Order("index:Q"),
            tooltip=tips(
                shape="shape", ttft="TTFT (ms)", tpot="TPOT (ms)", rate="tokens/s", requests="requests/s"
            ),
        )
    )
    return finished(
        alt.layer(bars).properties(width=style.width, height=3 * style.bar * len(found)), style
    )
