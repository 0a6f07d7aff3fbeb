"""``prune`` and ``apply``: one checkpoint, without the harness."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.verbs.field_options import FOLDER, FieldCommand, config_file, list_given
from bench.verbs.model_options import TRUST_REMOTE_CODE

if TYPE_CHECKING:
    from pydantic import BaseModel


def _load_schema() -> type[BaseModel]:
    from replaceme.options import PruneOptions

    return PruneOptions


@click.command(cls=FieldCommand, argument="model", schema=_load_schema)
@config_file
def prune(config: Path | None, **options: Any) -> None:
    """Prune MODEL (hub id, folder, GGUF file) and write an ordinary checkpoint."""
    from bench.console import report_progress, watch
    from replaceme.options import read_options
    from replaceme.pruned_checkpoint import prune_as_told

    checked = read_options(config, list_given(options))
    with report_progress(sys.stderr, steps=3) as reporter:
        made = prune_as_told(checked, watch(reporter))
    click.echo(made.summary)


@click.command()
@click.argument("transform", type=FOLDER)
@click.argument("model")
@click.option("--out", type=FOLDER, required=True, help="Folder of the pruned checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace what is at OUT.")
@TRUST_REMOTE_CODE
def apply(transform: Path, model: str, out: Path, overwrite: bool, trust_remote_code: bool) -> None:
    """Merge a TRANSFORM that 'prune --transform-only' saved into MODEL."""
    from replaceme.pruned_checkpoint import apply_edit

    click.echo(apply_edit(transform, model, out, overwrite, trust_remote_code))
