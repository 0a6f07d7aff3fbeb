"""``generate``: text that a model writes itself, to calibrate or heal on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.verbs.field_options import FieldCommand, config_file, list_given
from replaceme.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

NAMED = {"model": ("model", "the argument MODEL"), "out": ("output", "--out")}


def _load_schema() -> type[BaseModel]:
    from bench.writing.options import GenerateOptions

    return GenerateOptions


@click.command(cls=FieldCommand, argument="model", schema=_load_schema)
@config_file
def generate(config: Path | None, **options: Any) -> None:
    """Have MODEL write text itself, or answer prompts, through vLLM.

    'prune', 'heal' and suites read the file as any data set. The same command again goes on where it was
    interrupted.
    """
    from bench.console import report_progress, watch
    from bench.writing.options import GenerateOptions
    from bench.writing.write import write_text
    from replaceme.checkpoint import Checkpoint
    from replaceme.io import models
    from replaceme.io.yaml_source import load_options
    from replaceme.recipe import digest

    asked = load_options(config, GenerateOptions, list_given(options), NAMED)
    if asked.out.is_dir() or (asked.out.exists() and not asked.overwrite):
        raise InputError(f"{asked.out} exists; name another file, or use --overwrite.")
    with report_progress(sys.stderr, steps=2) as reporter:
        watcher = watch(reporter)
        watcher.step("opening the model")
        model = Checkpoint.open(asked.model, asked.revision, asked.trust_remote_code)
        weights = models.fingerprint(model.name, model.revision, model.folder)
        watcher.step("writing")
        key = digest([weights, asked.data.writing(), asked.date.isoformat()])
        written = write_text(model, asked.data, asked.out, key, asked.date, report=watcher.share)
    click.echo(f"Wrote {asked.out}: {written.tell()}.")
