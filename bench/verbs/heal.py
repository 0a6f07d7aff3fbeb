"""``heal``: one pruned checkpoint trained for a while, without the harness."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.verbs.field_options import FieldCommand, config_file, list_given

if TYPE_CHECKING:
    from pydantic import BaseModel

NAMED = {
    "checkpoint": ("checkpoint", "the argument CHECKPOINT"),
    "teacher": ("intact model", "--teacher"),
    "out": ("output", "--out"),
}


def _load_schema() -> type[BaseModel]:
    from replaceme.healing.options import HealOptions

    return HealOptions


@click.command(cls=FieldCommand, argument="checkpoint", schema=_load_schema)
@config_file
def heal(config: Path | None, **options: Any) -> None:
    """Train CHECKPOINT, which was pruned, for a while: toward the predictions of the intact model, or on
    data.

    The same command again goes on where it was interrupted.
    """
    from bench.console import report_progress, watch
    from replaceme.healing.checkpoint import heal_as_told
    from replaceme.healing.options import HealOptions
    from replaceme.io.yaml_source import load_options

    checked = load_options(config, HealOptions, list_given(options), NAMED)
    with report_progress(sys.stderr, steps=4) as reporter:
        made = heal_as_told(checked, watch(reporter))
    click.echo(made.summary)
