"""A YAML file → a validated pydantic model, with errors that name file, line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from replaceme.errors import InputError, nearest

Model = TypeVar("Model", bound=BaseModel)


def load(path: Path, schema: type[Model], overrides: dict[str, Any] | None = None) -> Model:
    """The file as a ``schema``; ``overrides`` are options of a command, which win over the file's keys.

    Raises:
        InputError: not readable, not YAML, not a mapping, or not what the schema allows.
    """
    node, content = _read(path)
    overrides = overrides or {}
    try:
        context = {"folder": path.parent, "options": overrides.keys()}
        return schema.model_validate(content | overrides, context=context)
    except ValidationError as error:
        messages = [
            option_message(schema, problem)
            if problem["loc"] and problem["loc"][0] in overrides
            else _message(path, node, schema, problem)
            for problem in error.errors()
        ]
        raise InputError("\n".join(messages)) from None


def option_message(schema: type[BaseModel], problem: Any) -> str:
    """What is wrong with an option of a command, named as ``--option`` where it is one alone."""
    option = f"--{str(problem['loc'][0]).replace('_', '-')}: " if problem["loc"] else ""
    return option + _reason(schema, problem)


def _read(path: Path) -> tuple[yaml.MappingNode, dict[str, Any]]:
    """A mapping with its places in the file, and as it is."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{path} cannot be read: {reason}.") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)}).") from None
    if not isinstance(node, yaml.MappingNode):
        raise InputError(
            f"{path}:1: the file must be a mapping of keys to values, such as 'name: demo'."
        )
    if repeated := _repeated_key(node):
        raise InputError(
            f"{path}:{repeated.start_mark.line + 1}: the key {repeated.value!r} stands twice."
        )
    return node, content


def _repeated_key(node: yaml.Node) -> yaml.ScalarNode | None:
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                return key
            seen.add(key.value)
            children.append(value)
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    return next((found for child in children if (found := _repeated_key(child))), None)


def _message(path: Path, node: yaml.Node, schema: type[BaseModel], problem: Any) -> str:
    location = problem["loc"]
    line = _line(node, location)
    key = ".".join(map(str, location)) or "the file"
    return f"{path}:{line}: {key}: {_reason(schema, problem)}"


def _reason(schema: type[BaseModel], problem: Any) -> str:
    location = problem["loc"]
    if problem["type"] == "extra_forbidden":
        allowed = _keys_at(schema, location[:-1])
        return f"unknown key{nearest(str(location[-1]), allowed)} Allowed are {', '.join(allowed)}."
    if problem["type"] == "missing":
        return f"this {'key' if isinstance(location[-1], str) else 'entry'} is required."
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if problem["type"] in {"value_error", "assertion_error"}:
        return text if text.endswith((".", "?")) else text + "."
    return f"{text}; got {problem['input']!r}."


def _line(node: yaml.Node, location: tuple[int | str, ...]) -> int:
    """Line of the deepest part of ``location`` that the file has."""
    line = node.start_mark.line
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == part]
            if not found:
                break
            line, node = found[0][0].start_mark.line, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return line + 1


def _keys_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that the schema allows at a location."""
    for part in location:
        if isinstance(part, int):
            continue
        schema = _model_in(schema.model_fields[part].annotation) or schema
    return [field.alias or name for name, field in schema.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
