"""``inspect``: what was found in a model's layers, and what works on them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from bench.verbs.model_options import TRUST_REMOTE_CODE

if TYPE_CHECKING:
    from rich.table import Table

    from replaceme.architectures import LayerKind
    from replaceme.inspection import Inspection

SHOWN = 6  # layers of a kind that are named one by one


@click.command()
@click.argument("model")
@click.option("--revision", help="Of a hub model.")
@TRUST_REMOTE_CODE
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone.")
def inspect(model: str, revision: str | None, trust_remote_code: bool, as_json: bool) -> None:
    """Show what a model's layers do, as measured, and which solvers are exact on them.

    A config is enough: a folder without weights, or a hub id, of which nothing else is fetched.
    """
    from bench.console import output
    from replaceme.inspection import inspect as inspect_model

    found = inspect_model(model, revision, trust_remote_code)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=1))
        return
    with output() as console:
        console.print(_headline(found), markup=False)
        console.print(_layers(found))
        console.print(_solvers(found))


def _headline(found: Inspection) -> str:
    from bench.render.escape import visible

    architecture = found.architecture
    norm = f", then {architecture.final_norm}" if architecture.final_norm else ""
    files = "" if found.files else "; config alone, no weights"
    said = f"{found.model}: {architecture.title}, {found.layers} layers in {architecture.layers}"
    return visible(f"{said}{norm}{files}")


def _layers(found: Inspection) -> Table:
    from rich.table import Table

    table = Table("layers", "added last (M)", "times", "a transform goes into", "mixes tokens", box=None)
    for kind in found.architecture.kinds:
        mixer = kind.mixer or "–"
        table.add_row(
            list_layers(kind.layers),
            " + ".join(kind.adds) or "nothing found",
            f"{kind.factor:g}" if kind.adds else "",
            _targets(kind),
            f"{mixer} (same state as M)" if kind.parallel else mixer,
        )
    return table


def _targets(kind: LayerKind) -> str:
    if kind.norm:
        return f"{kind.norm} (a diagonal)"
    return ", ".join(kind.outputs) or "–"


def _solvers(found: Inspection) -> Table:
    from rich.table import Table
    from rich.text import Text

    from bench.render.escape import visible

    table = Table("what", "exact", "else why", box=None)
    rows: dict[str, Any] = {"removal of layers": found.removal, **found.solvers}
    if any(found.solvers.values()):
        rows["diagonal transforms"] = found.diagonal
    for name, reason in rows.items():
        table.add_row(name, "no" if reason else "yes", Text(visible(reason or "")))
    return table


def list_layers(numbers: tuple[int, ...]) -> str:
    """Numbers of layers, in runs: ``0–2, 4``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    return ", ".join(parts) if len(parts) <= SHOWN else f"{', '.join(parts[:SHOWN])}, … ({len(numbers)})"
