"""Commands whose options are the fields of a pydantic model, which is loaded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import click

from bench.verbs.completion import complete_solvers

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

FOLDER = click.Path(path_type=Path)
config_file = click.option(
    "--config", type=FOLDER, help="YAML file with these options as keys; options win."
)
# What a field's type does not tell of its option.
EXTRAS: dict[str, dict[str, Any]] = {
    "blocks": {"multiple": True, "metavar": "START:END"},
    "date": {"metavar": "YYYY-MM-DD"},
    "selector": {"metavar": "NAME"},
    "tokens": {"metavar": "AMOUNT"},
    "solver": {"metavar": "NAME", "shell_complete": complete_solvers},
}


class FieldCommand(click.Command):
    """A command with an option for each field of a model, and an argument for one."""

    _params: list[click.Parameter]
    _is_complete = False

    def __init__(
        self, *args: Any, argument: str, schema: Callable[[], type[BaseModel]], **kwargs: Any
    ) -> None:
        """``argument``: the field that is one; ``schema``: loads the model."""
        super().__init__(*args, **kwargs)
        self._argument, self._schema = argument, schema

    @property
    def params(self) -> list[click.Parameter]:
        if not self._is_complete and hasattr(self, "_schema"):
            fields = dict(self._schema().model_fields)
            del fields[self._argument]
            self._params.insert(0, click.Argument([self._argument], required=False))
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
    if kind is float and "Gt" in bounds:
        return click.FloatRange(bounds["Gt"].gt, min_open=True)
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


def list_given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the command line says."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and value is not False and value != ()
    }
