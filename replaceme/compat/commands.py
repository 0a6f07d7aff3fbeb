"""The published commands, with the keys of the published YAMLs.

Keys, defaults and names of the output folders are those of https://github.com/mts-ai/ReplaceMe; two
things are files of another kind, because pickles are not read or written: distances are JSON, a
transform is safetensors. ``evaluate_model``, which scores a model, is in the harness.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from replaceme.compat import prune as published
from replaceme.compat.config import Method, SeedConfig
from replaceme.compat.distances import DISTANCES
from replaceme.errors import InputError, OutputError
from replaceme.io import yaml_file, yaml_source
from replaceme.io.yaml_file import shown

SHIPPED = {
    "reproduce/Replace_Me_pipeline_lstsq.yaml": "lstsq.yaml",
    "reproduce/Replace_Me_pipeline_cosine.yaml": "cosine.yaml",
    "reproduce/uidl_pipeline.yaml": "uidl.yaml",
    "examples/Replace_Me_pipeline_lstsq.yaml": "lstsq_example.yaml",
    "examples/Replace_Me_pipeline_cosine.yaml": "cosine_example.yaml",
}


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """What the user can mend ends with a sentence and exit code 2."""
    try:
        yield
    except (InputError, OutputError) as error:
        lines = str(error).split("\n")
        click.echo("Error: " + "\n".join(shown(line, len(line)) for line in lines), err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        sys.exit(130)


def say(sentence: str) -> None:
    click.echo(f"Note: {sentence}", err=True)


def find(file: Path) -> Path:
    """The file, or, for one of the published repository that is not there, the same settings as they
    ship with this package."""
    name = "/".join(file.parts[-2:])
    if name not in SHIPPED or file.exists():
        return file
    package = Path(__file__).parents[1]
    folder = package / "published"
    shipped = (folder if folder.is_dir() else package.parent / "suites/published") / SHIPPED[name]
    say(f"{file} is not there; {shipped} has the same settings.")
    return shipped


def read_config(file: Path) -> SeedConfig:
    """The settings in a file; of a key that stands twice the last one counts, as in PyYAML.

    Raises:
        InputError: with the place of what is wrong.
    """
    repeated: list[str] = []
    config = yaml_source.validate(yaml_file.read(file, repeated), SeedConfig)
    for sentence in repeated:
        say(sentence)
    if config.min_distance_layer is not None and config.compat is not None:
        say(
            "min_distance_layer changes nothing, as in the published code; with 'compat: null' it is "
            "the first layer that may be removed."
        )
    if config.distances_file != config.distances_path:
        say(f"{config.distances_path} would be a pickle; the distances are in {config.distances_file}.")
    if config.activations_save_path is not None:
        say("activations_save_path changes nothing, as in the published code.")
    return config


def _prune(file: Path, method: Method | None, overwrite: bool, distances: Path | None = None) -> None:
    with told_in_a_sentence():
        file = find(file)
        config = read_config(file)
        chosen = method or config.method
        if chosen is None:
            raise InputError(f"{file}: method: this key is required; allowed are lstsq and cosine.")
        if chosen == "uidl" and config.use_4bit:
            say(
                "use_4bit: it is for choosing the layers alone; those that stay are written as they are "
                "in the checkpoint, where the published code writes them in 4 bits."
            )
        if config.distances_path is None:
            config = config.model_copy(update={"distances_path": distances})
        folder, done = published.prune(config, chosen, overwrite, say)
        click.echo(done)
        command = ["evaluate_model", "--config", str(file), "--model", str(folder)]
        click.echo(f"To score it: {shlex.join(command)}")


class FileCommand(click.Command):
    """A command whose settings are in a file, and which says so to who gives them as options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.UsageError(
                f"{error.format_message()} The settings are keys of a file: {self.name} --config FILE.",
                ctx,
            ) from None


def command(function: Any) -> click.Command:
    """A published command, named as there."""
    settings: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
    return click.command(function.__name__, cls=FileCommand, context_settings=settings)(function)


CONFIG = click.option(
    "--config", "file", required=True, type=click.Path(path_type=Path), help="YAML file."
)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace an existing output folder.")


@command
@CONFIG
@OVERWRITE
def run_replaceme(file: Path, overwrite: bool) -> None:
    """Prune a model by the published method, lstsq or cosine, as a published YAML says.

    Behaves as the published code; 'compat: null' in the file does what 'replaceme-bench prune' does.
    """
    _prune(file, None, overwrite)


@command
@CONFIG
@OVERWRITE
def run_uidl(file: Path, overwrite: bool) -> None:
    """Remove the closest layers of a model and put nothing in their place, as a published YAML says."""
    _prune(file, "uidl", overwrite)


@command
@CONFIG
@OVERWRITE
def get_lt_with_lstsq(file: Path, overwrite: bool) -> None:
    """run_replaceme with method lstsq; distances are read from ./distances.json if they are there."""
    _prune(file, "lstsq", overwrite, DISTANCES)


@command
@CONFIG
@OVERWRITE
def get_lt_with_solvers(file: Path, overwrite: bool) -> None:
    """run_replaceme with method cosine; distances are read from ./distances.json if they are there."""
    _prune(file, "cosine", overwrite, DISTANCES)


@command
@CONFIG
def get_distance_analysis(file: Path) -> None:
    """Measure the distances over blocks of layers, and write them as JSON and CSV."""
    with told_in_a_sentence():
        click.echo(published.analyse(read_config(file), say))
