"""The parts of the documentation that are made from code: a hook of mkdocs.

``<!-- generated: NAME -->`` in a page is replaced by what ``PARTS[NAME]`` returns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bench.cli import main
from bench.suite.suite import Suite
from replaceme.healing import HealSettings
from replaceme.settings import SolverSpec
from replaceme.solvers import SOLVERS, Solver

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- generated: (\w+) -->")
PICTURES = ("results/demo/leaderboard.svg", "results/demo/charts")
DECODERS = ROOT / "docs" / "decoders.json"
SERVED = ROOT / "docs" / "served.json"
COVERAGE = ROOT / "coverage.json"
KINDS = {
    "llama": "Attention and MLP",
    "granitemoeshared": "Experts with a shared one beside them, and a residual multiplier",
    "qwen3_5_text": "A hybrid: linear attention, and full attention in every fourth layer",
    "gemma3_text": "A norm behind the MLP",
    "mamba2": "State-space layers alone",
    "jamba": "A hybrid whose config says what a layer is by its number",
}
WORDS = {"int": "whole number", "str": "text", "float": "number", "bool": "true or false"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    return fill(markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Show the measured pictures where they lie."""
    from mkdocs.structure.files import File

    for name in PICTURES:
        path = ROOT / name
        for picture in sorted(path.rglob("*.svg")) if path.is_dir() else [path]:
            target = f"measured/{picture.name}"
            files.append(File.generated(config, target, abs_src_path=str(picture)))
    return files


def fill(markdown: str) -> str:
    """A page with its generated parts."""
    return MARK.sub(lambda match: PARTS[match[1]](), markdown)


# ---- the suite file


def suite_reference() -> str:
    """A section for each mapping of a suite file, with a row for each key."""
    return "\n\n".join(f"{title(model)}\n\n{fields(model)}" for model in sections(Suite))


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A mapping and all that can stand in it, each once, in the order of the keys."""
    reached = [model]
    for current in reached:
        for field in current.model_fields.values():
            reached += [one for one in models_in(field.annotation) if one not in reached]
    return reached


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation is SolverSpec:  # a solver's own parameters are a part by themselves
            yield HealSettings
        else:
            yield annotation
        return
    for argument in get_args(annotation):
        yield from models_in(argument)


def title(model: type[BaseModel]) -> str:
    return f"## {model.__name__}\n\n{escape((model.__doc__ or '').split(chr(10) * 2)[0])}"


def fields(model: type[BaseModel]) -> str:
    rows = [
        (f"`{name}`", type_of(field.annotation), default_of(field), escape(field.description or ""))
        for name, field in model.model_fields.items()
    ]
    return table(("key", "type", "default", "what it is"), rows)


def type_of(annotation: Any) -> str:
    """A type in words, with links to the mappings it names."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        name = annotation.__name__
        return "[a solver](../solvers.md)" if annotation is SolverSpec else f"[{name}](#{name.lower()})"
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(type_of(one) for one in arguments if one is not type(None)))
    if origin is Annotated:
        return type_of(arguments[0])
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"list of {type_of(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} of {type_of(arguments[0])}"
    name = getattr(annotation, "__name__", str(annotation))
    return WORDS.get(name, {"Path": "path", "date": "day"}.get(name, name))


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None or value is PydanticUndefined:
        return "`null`"
    if isinstance(value, str):
        return f"`{value}`"
    return f"`{json.dumps(value, default=str)}`"


def solver_reference() -> str:
    """Every solver with its parameters."""
    return "\n\n".join(solver_section(name, solver) for name, solver in SOLVERS.items())


def solver_section(name: str, solver: type[Solver]) -> str:
    parameters = fields(solver) if solver.model_fields else "It has no parameters."
    return f"### `{name}`\n\n{solver.summary[0].upper()}{solver.summary[1:]}.\n\n{parameters}"


# ---- the commands


def command_reference() -> str:
    """Every verb of replaceme-bench as its ``--help`` says."""
    context = click.Context(main, info_name="replaceme-bench")
    return "\n\n".join(verb(context, name) for name in main.list_commands(context))


def verb(parent: click.Context, name: str) -> str:
    command = main.commands[name]
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    paragraphs = [escape(text) for text in (command.help or "").replace("\b", "").split("\n\n")]
    options = [one for one in command.params if isinstance(one, click.Option)]
    rows = [(option_names(one), option_text(one, context)) for one in options]
    parts = [f"## {name}", f"```text\n{usage}\n```", *paragraphs]
    return "\n\n".join([*parts, table(("option", "what it does"), rows)] if rows else parts)


def option_names(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag or option.count:
        return names
    kind = option.type
    if isinstance(kind, click.Choice):
        return f"{names} `{'`, `'.join(map(str, kind.choices))}`"
    return f"{names} `{option.metavar or kind.name}`"


def option_text(option: click.Option, context: click.Context) -> str:
    _, text = option.get_help_record(context) or ("", "")
    return escape(text)


# ---- what was measured


def coverage() -> str:
    """Covered lines of each part of the two packages, where a test run left them."""
    if not COVERAGE.is_file():
        return "This build was made without a test run, so there are no figures; CI's has them."
    files = json.loads(COVERAGE.read_text("utf-8"))["files"]
    parts: dict[str, list[int]] = {}
    for name, content in files.items():
        path = Path(name)
        part = "/".join(path.parts[:2]) if len(path.parts) > 2 else path.parts[0]
        lines = parts.setdefault(part, [0, 0])
        lines[0] += content["summary"]["covered_lines"]
        lines[1] += content["summary"]["num_statements"]
    total = [sum(counts) for counts in zip(*parts.values(), strict=True)]
    rows = [
        (f"`{part}`", str(lines), f"{100 * covered / max(lines, 1):.1f}")
        for part, (covered, lines) in sorted(parts.items())
    ]
    rows.append(("all", str(total[1]), f"{100 * total[0] / max(total[1], 1):.1f}"))
    return table(("part", "statements", "covered %"), rows)


def demo_table() -> str:
    """The demo's table from its records, as ``report --format markdown`` prints it."""
    from bench.leaderboard import leaderboard
    from bench.render.formats import FORMATS
    from bench.results import open_results

    records = open_results(str(ROOT / "results/demo")).records
    return FORMATS["markdown"](leaderboard.build(list(records.values())))


def workflow() -> str:
    text = (ROOT / ".github/workflows/quality.yml").read_text("utf-8")
    return f"```yaml\n{text}```"


def escape(text: str) -> str:
    """Words of code as they stand, in a cell of a table too."""
    plain = " ".join(text.replace("``", "`").split())
    return plain.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---- decoders


def decoder_table() -> str:
    """What is exact on each class that transformers generates text with."""
    head = (
        "model type",
        "class",
        "removal",
        "diagonal",
        "transforms",
        "`refit`",
        "`reconstruct`",
        "one pass",
    )
    keys = ("removal", "diagonal", "lstsq", "refit", "reconstruct", "one pass")
    rows = []
    for name, said in read_decoders().items():
        if said.get("removal") is True:
            marks = ("✓" if said[key] is True else "–" for key in keys)
            rows.append((f"`{name}`", said["class"], *marks))
    return table(head, rows)


def refusals() -> str:
    """The classes that are not pruned, with the reason."""
    rows = []
    for name, said in read_decoders().items():
        reason = said.get("refused") or said.get("unbuilt") or said["removal"]
        if reason is not True:
            rows.append((f"`{name}`", said["class"], escape(reason)))
    return table(("model type", "class", "why not"), rows)


def served_table() -> str:
    """What vLLM says of small pruned models, or why it does not run them."""
    said: dict[str, Any] = json.loads(SERVED.read_text("utf-8"))
    found = {True: "the tokens of transformers", False: "other tokens"}
    rows = [
        (f"`{name}`", found[how] if isinstance(how, bool) else escape(how)) for name, how in said.items()
    ]
    return table(("model type", "vLLM's greedy tokens"), rows)


def inspections() -> str:
    """What ``inspect`` prints of models of different kinds, each the config that is its class's own."""
    from click.testing import CliRunner
    from transformers import CONFIG_MAPPING

    parts = []
    for model_type, kind in KINDS.items():
        with CliRunner().isolated_filesystem():
            CONFIG_MAPPING[model_type]().save_pretrained(model_type)
            printed = CliRunner().invoke(main, ["inspect", model_type], env={"COLUMNS": "140"})
        text = "\n".join(line.rstrip() for line in printed.output.splitlines())
        parts.append(f"{kind}:\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


def read_decoders() -> dict[str, dict[str, Any]]:
    """What the tests found of every class, and hold it to."""
    found: dict[str, dict[str, Any]] = json.loads(DECODERS.read_text("utf-8"))
    return found


PARTS: dict[str, Callable[[], str]] = {
    "suite": suite_reference,
    "solvers": solver_reference,
    "commands": command_reference,
    "families": decoder_table,
    "refused": refusals,
    "served": served_table,
    "inspections": inspections,
    "coverage": coverage,
    "demo": demo_table,
    "workflow": workflow,
}
