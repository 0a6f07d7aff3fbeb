"""A chart as the bytes of a PNG, SVG or PDF file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.plots.figure import Figure

PPI = 300


def _png(spec: dict[str, Any]) -> bytes:
    import vl_convert

    return vl_convert.vegalite_to_png(spec, ppi=PPI, scale=1)


def _svg(spec: dict[str, Any]) -> bytes:
    import vl_convert

    return vl_convert.vegalite_to_svg(spec).encode()


def _pdf(spec: dict[str, Any]) -> bytes:
    import vl_convert

    return vl_convert.vegalite_to_pdf(spec)


FORMATS: dict[str, Callable[[dict[str, Any]], bytes]] = {"png": _png, "svg": _svg, "pdf": _pdf}


def drawn(figure: Figure, kind: str) -> bytes:
    """The file's content; ``kind`` is a key of ``FORMATS``. Nothing is fetched.

    A bare figure, without its title and caption: a paper has its own.
    """
    assert figure.spec is not None
    return FORMATS[kind]({**figure.spec, "background": "white"})
