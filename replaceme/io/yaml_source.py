"""A YAML file → a validated pydantic model, with errors that name file, line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from replaceme.errors import InputError, nearest
from replaceme.io import yaml_file
from replaceme.io.yaml_file import Entry, shown

Model = TypeVar("Model", bound=BaseModel)
MOST_PROBLEMS = 10


def load(path: Path, schema: type[Model], overrides: dict[str, Any] | None = None) -> Model:
    """The file as a ``schema``; ``overrides`` are options of a command, which win over the file's keys.

    Raises:
        InputError: not readable, not YAML, not a mapping, or not what the schema allows.
    """
    return validate(yaml_file.read(path), schema, overrides)


def validate(source: Entry, schema: type[Model], overrides: dict[str, Any] | None = None) -> Model:
    """What was read as a ``schema``.

    Validators find in their context ``source``, its ``folder``, and the names of the ``options``.

    Raises:
        InputError: not what the schema allows, with the place of each wrong value.
    """
    overrides = overrides or {}
    context = {"source": source, "folder": source.path.parent, "options": overrides.keys()}
    try:
        return schema.model_validate(source.plain() | overrides, context=context)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        messages = [
            option_message(schema, problem)
            if problem["loc"] and problem["loc"][0] in overrides
            else _message(source, schema, problem)
            for problem in problems[:MOST_PROBLEMS]
        ]
        if more := len(problems) - MOST_PROBLEMS:
            messages += [f"{source.path}: {more} more like these."] if more > 0 else []
        raise InputError("\n".join(messages)) from None


def load_options(
    config: Path | None, schema: type[Model], given: dict[str, Any], named: dict[str, tuple[str, str]]
) -> Model:
    """Options of a command as a ``schema``, with those of its ``--config`` file where there is one.

    Args:
        given: options of the command line, which win.
        named: required key → (what it is called, how the command line says it).

    Raises:
        InputError: an unknown key, a wrong value, or one that is required is missing.
    """
    if config is not None:
        return load(config, schema, given)
    for key, (name, where) in named.items():
        if key not in given:
            raise InputError(f"name the {name}: as {where}, or as {key!r} in a --config file.")
    return check_options(schema, given)


def check_options(schema: type[Model], given: dict[str, Any]) -> Model:
    """What was given as a ``schema``.

    Raises:
        InputError: an unknown key or a wrong value.
    """
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        messages = [option_message(schema, problem) for problem in error.errors()]
        raise InputError("\n".join(messages)) from None


def option_message(schema: type[BaseModel], problem: Any) -> str:
    """What is wrong with an option of a command, named as ``--option`` where it is one alone."""
    option = f"--{str(problem['loc'][0]).replace('_', '-')}: " if problem["loc"] else ""
    return option + _reason(schema, problem)


def _message(source: Entry, schema: type[BaseModel], problem: Any) -> str:
    location = problem["loc"]
    key = ".".join(shown(str(part)) for part in location) or "the file"
    return f"{source.at(location).where}: {key}: {_reason(schema, problem)}"


def _reason(schema: type[BaseModel], problem: Any) -> str:
    location = problem["loc"]
    if problem["type"] == "extra_forbidden":
        allowed = _keys_at(schema, location[:-1])
        return f"unknown key{nearest(str(location[-1]), allowed)} Allowed are {', '.join(allowed)}."
    if problem["type"] == "missing":
        return f"this {'key' if isinstance(location[-1], str) else 'entry'} is required."
    text = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if problem["type"] in {"value_error", "assertion_error"}:
        return text if text.endswith((".", "?")) else text + "."
    return f"{text}; got {shown(repr(problem['input']))}."


def _keys_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that the schema allows at a location."""
    for part in location:
        if part not in schema.model_fields:  # of a list, or of a mapping by name
            continue
        schema = _model_in(schema.model_fields[part].annotation) or schema
    return [field.alias or name for name, field in schema.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
