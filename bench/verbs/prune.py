"""``prune`` and ``apply``: one checkpoint, without the harness."""

from __future__ import annotations

import sys
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import click

from bench.verbs.completion import complete_solvers
from bench.verbs.model_options import TRUST_REMOTE_CODE

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

FOLDER = click.Path(path_type=Path)
# What a field's type does not tell of its option.
EXTRAS: dict[str, dict[str, Any]] = {
    "blocks": {"multiple": True, "metavar": "START:END"},
    "date": {"metavar": "YYYY-MM-DD"},
    "selector": {"metavar": "NAME"},
    "solver": {"metavar": "NAME", "shell_complete": complete_solvers},
}


class PruneCommand(click.Command):
    """A command whose options are the fields of ``PruneOptions``, made when they are asked for."""

    _params: list[click.Parameter]
    _is_complete = False

    @property
    def params(self) -> list[click.Parameter]:
        if not self._is_complete:
            from replaceme.options import PruneOptions

            fields = dict(PruneOptions.model_fields)
            del fields["model"]
            self._params.insert(0, click.Argument(["model"], required=False))
            self._params += [make_option(name, field) for name, field in fields.items()]
            self._is_complete = True
        return self._params

    @params.setter
    def params(self, own: list[click.Parameter]) -> None:
        self._params = own


def make_option(name: str, field: FieldInfo) -> click.Option:
    """The option of a field: its name, type, default and help."""
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        return click.Option([flag], is_flag=True, help=_explain(field))
    kind = {} if name in EXTRAS else {"type": _choose_type(field)}
    return click.Option([flag], help=_explain(field), **kind, **EXTRAS.get(name, {}))


def _choose_type(field: FieldInfo) -> Any:
    kind: Any = field.annotation
    if kind not in (None, bool) and type(None) in get_args(kind):
        kind = next(part for part in get_args(kind) if part is not type(None))
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    bounds = {type(bound).__name__: bound for bound in field.metadata}
    if choices := get_args(kind):
        return click.Choice(choices)
    if kind is Path:
        return FOLDER
    if kind is float:
        return click.FloatRange(bounds["Ge"].ge)
    if kind is int and "Gt" in bounds:
        return click.IntRange(bounds["Gt"].gt + 1)
    if kind is int and "Ge" in bounds:
        return click.IntRange(bounds["Ge"].ge)
    return kind


def _explain(field: FieldInfo) -> str:
    """A field's description as a sentence, with its default."""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    text = str(field.description)
    text = text[0].upper() + text[1:] if not text.startswith("torch") else text
    shown = getattr(default, "label", default)
    return f"{text}; default: {shown}." if shown not in (None, False, []) else f"{text}."


@click.command(cls=PruneCommand)
@click.option("--config", type=FOLDER, help="YAML file with these options as keys; options win.")
def prune(config: Path | None, **options: Any) -> None:
    """Prune MODEL (hub id, folder, GGUF file) and write an ordinary checkpoint."""
    from bench.console import report_progress
    from replaceme.options import read_options
    from replaceme.pruned_checkpoint import Watcher, prune_as_told

    given = {
        key: value
        for key, value in options.items()
        if value is not None and value is not False and value != ()
    }
    checked = read_options(config, given)
    with report_progress(sys.stderr, steps=3) as reporter:
        starts = chain([reporter.step], repeat(reporter.next_step))
        watcher = Watcher(lambda text: next(starts)(text), reporter.share)
        made = prune_as_told(checked, watcher)
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
