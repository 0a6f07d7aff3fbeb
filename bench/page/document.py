"""Records and table → the page: a template, a style sheet, scripts, and data that cannot become code.

Nothing that a record says is trusted: the template escapes it, data stand as JSON without ``<``, charts
name no field after it, and the page's own policy lets no script run but the two whose hashes it lists.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from bench.leaderboard.table import Column, Row, Table, show
from bench.page.columns import set_of, sets_of
from bench.page.drawer import Drawer, drawers
from bench.page.texts import list_texts
from bench.plots import SCREEN, Figure, figures
from bench.plots.style import DARK, LIGHT
from bench.records import Record
from bench.render.escape import visible
from bench.render.wording import APART
from bench.results import Results, latest


def document(records: list[Record], table: Table, sources: Iterable[Results] = ()) -> str:
    """The page as one string; ends with a newline."""
    environment = Environment(
        loader=PackageLoader("bench.page", "assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalized,
    )
    environment.filters |= {"breakable": _breakable, "code": _code}
    drawn, cells = figures(records, SCREEN), drawers(records, list_texts(sources))
    style = _style()
    scripts = (
        [_library(), _asset("page.js")] if any(figure.spec for figure in drawn) else [_asset("page.js")]
    )
    return environment.get_template("page.html.j2").render(
        table=table,
        apart=APART * table.apart,
        cells=list(cells.values()),
        summary=_summary(records),
        figures=_by_model(drawn),
        specs={figure.name: figure.spec for figure in drawn if figure.spec},
        column_sets=sets_of(table.columns),
        set_of=set_of,
        show=show,
        drawer_of=lambda row: _drawer(cells, row),
        choices=_choices(table),
        best_first=_best_first,
        style=style,
        scripts=scripts,
        policy=_policy(style, scripts),
    )


def _finalized(value: Any) -> Any:
    """A text with its control characters made visible; what is markup already stays."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _code(text: str) -> Markup:
    """A text in which line feeds are to stay."""
    return Markup("\n").join(map(visible, text.split("\n")))


def _breakable(text: str) -> Markup:
    """The text with places where a long name may be broken, as after an underscore."""
    return Markup("<wbr>").join(re.split(r"(?<=[_/-])", visible(text)))


def _style() -> str:
    """The style sheet with the colours of both schemes as variables."""
    light, dark = (
        ";".join(f"--{name}:{colour}" for name, colour in scheme.items()) for scheme in (LIGHT, DARK)
    )
    scheme = f":root{{color-scheme:light;{light}}}"
    scheme += f"@media screen and (prefers-color-scheme:dark){{:root{{color-scheme:dark;{dark}}}}}"
    return f"{scheme}\n{_asset('page.css')}"


@cache
def _asset(name: str) -> str:
    return resources.files("bench.page").joinpath("assets", name).read_text("utf-8")


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script that defines ``vegaEmbed``."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(style: str, scripts: Iterable[str]) -> str:
    """The content security policy: nothing is fetched, and only these texts are run and applied."""
    listed = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; script-src {listed}; style-src {_hash(style)}; base-uri 'none'; "
        f"form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _summary(records: list[Record]) -> dict[str, Any]:
    cells = latest(records).values()
    return {
        "models": list(dict.fromkeys(record.model for record in cells)),
        "cells": len(cells),
        "failed": sum(bool(record.failures) for record in cells),
        "updated": max((record.updated or "" for record in cells), default="")[:10],
    }


def _by_model(drawn: Iterable[Figure]) -> dict[str, list[Figure]]:
    found: dict[str, list[Figure]] = {}
    for figure in drawn:
        found.setdefault(figure.model, []).append(figure)
    return found


def _drawer(cells: dict[tuple[str, int, str], Drawer], row: Row) -> Drawer | None:
    return None if row.layers is None else cells.get((row.model, row.layers, row.label))


def _choices(table: Table) -> dict[str, list[str]]:
    """What each filter offers, in the order of the table."""
    rows = list(table.rows)
    found = {
        "model": [row.model for row in rows],
        "cut": [str(cut) for cut in sorted({row.layers for row in rows if row.layers is not None})],
        "solver": [row.label for row in rows],
    }
    return {name: list(dict.fromkeys(values)) for name, values in found.items()}


def _best_first(column: Column) -> str:
    """The direction of the first click on a column's head."""
    return "descending" if column.better == "higher" else "ascending"
