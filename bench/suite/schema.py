"""JSON Schema of suite files and records, for editors and other programs.

pydantic makes most of it. What a suite file may say beyond that is put in here: bare names, solvers with
their parameters, ``${NAME}`` where a number stands, null for a default, and ``extends``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bench.records import SCHEMA_VERSION, Record
from bench.suite.prune_spec import SHARE
from bench.suite.suite import Suite
from bench.tasks.presets import PRESETS
from replaceme.healing.settings import HealSettings
from replaceme.solvers import SOLVERS

Schema = dict[str, Any]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
VARIABLE = r"\$\{"
LABEL = "label in tables; default: the name, with -healed where something is trained"
SECTIONS = {"prune": ["solvers"], "score": ["tasks"], "serve": ["workloads"]}


def suite_schema() -> Schema:
    """Of what a suite file says before anything is filled in."""
    schema = _untitled(Suite.model_json_schema())
    definitions = schema["$defs"]
    definitions.pop("Solver", None)
    definitions["SolverSpec"] = _solver()
    definitions["HealSettings"] = _untitled(HealSettings.model_json_schema())
    count = {
        "type": ["integer", "string"],
        "minimum": 1,
        "pattern": rf"^(\d+|{SHARE.pattern})$|{VARIABLE}",
    }
    for section in ("PruneSpec", "Matrix"):
        definitions[section]["properties"]["layers"]["items"] = count
    tasks = definitions["ScoreSpec"]["properties"]["tasks"]["items"]
    presets = ", ".join(PRESETS)
    for name, what in (("ModelSpec", "its id"), ("TaskSpec", f"its name, or a preset: {presets}")):
        bare = {"type": "string", "minLength": 1, "description": what}
        definitions[name] = {"anyOf": [bare, definitions[name]]}
    tasks["description"] = f"a task, or a preset: {presets}"
    folders = definitions["ScoreSpec"]["properties"]["include_path"]
    folders["type"] = ["array", "string"]
    for model in [schema, *definitions.values()]:
        for variant in model.get("anyOf", [model]):
            _fill_in(variant)
    return {"$schema": DRAFT, "title": "Suite file of replaceme-bench"} | _partly_required(schema)


def record_schema() -> Schema:
    """Of a record as this release writes it."""
    schema: Schema = _untitled(Record.model_json_schema(mode="serialization"))
    version = schema["properties"]["schema_version"]
    version |= {"const": SCHEMA_VERSION, "description": "raised whenever the shape of a record changes"}
    return {"$schema": DRAFT, "title": "Record of replaceme-bench"} | schema


SCHEMAS: dict[str, Callable[[], Schema]] = {"record": record_schema, "suite": suite_schema}


def text(schema: Schema) -> str:
    """A schema as a file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _solver() -> Schema:
    """A solver's name, or a mapping with its parameters."""
    variants: list[Schema] = []
    for name, solver in SOLVERS.items():
        parameters = _untitled(solver.model_json_schema()).get("properties", {})
        label = {"type": "string", "minLength": 1, "description": LABEL}
        variants.append(
            {
                "type": "object",
                "description": solver.summary,
                "properties": {"name": {"const": name, "description": "of the solver"}, "as": label}
                | parameters
                | {"heal": {"$ref": "#/$defs/HealSettings", "description": "what is trained after it"}},
                "required": ["name"],
                "additionalProperties": False,
            }
        )
    names = {"enum": list(SOLVERS), "description": "a solver with its defaults"}
    return {"description": "a solver", "anyOf": [names, *variants]}


def _untitled(schema: Any) -> Any:
    """Without pydantic's titles, which only repeat names."""
    if isinstance(schema, dict):
        kept = {k: v for k, v in schema.items() if k != "title" or not isinstance(v, str)}
        return {key: _untitled(value) for key, value in kept.items()}
    return [_untitled(part) for part in schema] if isinstance(schema, list) else schema


def _fill_in(model: Schema) -> None:
    """Let properties be null or a variable, as a file may say."""
    required = model.get("required", [])
    for name, said in model.get("properties", {}).items():
        _allow_variables(said)
        if name not in required or any(name in keys for keys in SECTIONS.values()):
            model["properties"][name] = _nullable(said)


def _allow_variables(said: Schema) -> None:
    kind = said.get("type")
    if kind in ("integer", "number", "boolean"):
        said |= {"type": [kind, "string"], "pattern": VARIABLE}
    elif "enum" in said or "const" in said:
        allowed = said.pop("enum", None) or [said.pop("const")]
        said.pop("type", None)
        said["anyOf"] = [{"enum": allowed}, {"type": "string", "pattern": VARIABLE}]
    elif "pattern" in said and kind == "string":
        said["pattern"] = f"{said['pattern']}|{VARIABLE}"
    else:
        for part in said.get("anyOf", []):
            _allow_variables(part)


def _nullable(said: Schema) -> Schema:
    kind = said.get("type")
    if "anyOf" in said:
        null = [] if {"type": "null"} in said["anyOf"] else [{"type": "null"}]
        return said | {"anyOf": [*said["anyOf"], *null]}
    if kind:
        kinds = kind if isinstance(kind, list) else [kind]
        return said | {"type": [*kinds, "null"]}
    about = {key: said[key] for key in ("description", "default") if key in said}
    bare = {key: value for key, value in said.items() if key not in about}
    return about | {"anyOf": [bare, {"type": "null"}]}


def _partly_required(schema: Schema) -> Schema:
    """A file that extends another need not say everything."""
    for name, said in _sections(schema).items():
        said["required"] = [key for key in said.get("required", []) if key not in SECTIONS[name]]
    whole = {
        "required": schema.pop("required"),
        "properties": {name: {"required": keys} for name, keys in SECTIONS.items()},
    }
    whole["properties"]["prune"]["oneOf"] = [{"required": ["layers"]}, {"required": ["blocks"]}]
    extends = {"required": ["extends"], "properties": {"extends": {"type": "string"}}}
    return schema | {"if": extends, "else": whole}


def _sections(schema: Schema) -> dict[str, Schema]:
    names = {"prune": "PruneSpec", "score": "ScoreSpec", "serve": "ServeSettings"}
    return {name: schema["$defs"][model] for name, model in names.items()}
