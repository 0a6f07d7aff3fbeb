"""The exported JSON Schemas: valid, up to date, and of one mind with what is read."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from bench.store import Store, read_record
from bench.suite import suite
from bench.suite.schema import DRAFT, SCHEMAS, record_schema, suite_schema, text
from replaceme.errors import InputError
from replaceme.solvers import SOLVERS

ROOT = Path(__file__).parents[2]
SUITES = sorted((ROOT / "suites").glob("*.yaml"))
SUITE = Draft202012Validator(suite_schema())
RECORD = Draft202012Validator(record_schema())
Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize("what", SCHEMAS)
def test_schema_is_printed_and_valid(
    call: Callable[..., subprocess.CompletedProcess[str]], what: str
) -> None:
    result = call("schema", what)
    assert result.returncode == 0
    schema = json.loads(result.stdout)
    assert schema["$schema"] == DRAFT
    Draft202012Validator.check_schema(schema)
    assert result.stdout == text(SCHEMAS[what]())


def test_committed_schema_is_up_to_date() -> None:
    committed = (ROOT / "suites" / "suite.schema.json").read_text("utf-8")
    assert committed == text(suite_schema()), (
        "write it again: replaceme-bench schema suite > suites/suite.schema.json"
    )


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema of a mapping with named keys."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects(value)


@pytest.mark.parametrize("what", SCHEMAS)
def test_unknown_keys_are_forbidden_everywhere(what: str) -> None:
    found = list(objects(SCHEMAS[what]()))
    assert len(found) > 5
    assert all(schema["additionalProperties"] is False for schema in found)


def test_every_key_of_a_suite_is_described() -> None:
    bare = [
        name
        for schema in objects(suite_schema())
        for name, said in schema["properties"].items()
        if "description" not in said
    ]
    assert bare == []


# ---- suites


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_shipped_suite_is_valid_and_tells_editors_its_schema(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=suite.schema.json\n")
    SUITE.validate(yaml.safe_load(path.read_text()))


WHOLE: dict[str, Any] = {
    "name": "x",
    "models": ["org/one", {"id": "org/two", "num_layers": 32, "matrix": {"layers": ["25%"]}}],
    "prune": {"layers": [2, "12.5%"], "solvers": ["uidl"]},
    "score": {"tasks": ["paper", {"task": "arc_easy", "num_fewshot": 5, "metric": "acc"}]},
    "serve": {"workloads": [{"input_len": 8, "output_len": 4, "batch_size": 1}]},
}

FINE: dict[str, Change] = {
    "as it is": lambda c: c,
    "solver with parameters": lambda c: c["prune"].update(
        solvers=[{"name": "lstsq", "ridge": 0.1, "as": "mine"}, "cosine", {"name": "uidl"}]
    ),
    "healing": lambda c: c["prune"].update(
        solvers=[
            {"name": "lstsq", "heal": {"tokens": "200k", "train": "lora", "rank": 4, "norms": None}}
        ]
    ),
    "variables of healing": lambda c: c["prune"].update(
        solvers=[{"name": "lstsq", "heal": {"tokens": "${N:-9k}", "learning_rate": "${R:-1e-3}"}}]
    ),
    "blocks": lambda c: c.update(prune={"blocks": [[2, 4]], "solvers": ["uidl"]}),
    "null for a default": lambda c: c.update(device=None, calibration={"samples": None}),
    "no score": lambda c: c.update(score=None),
    "variable": lambda c: c.update(calibration={"samples": "${N:-8}", "column": "${C:-text}"}),
    "variable for a choice": lambda c: c["prune"].update(selector="${S:-angular}"),
    "variable in a count": lambda c: c["prune"].update(layers=["${N:-3}", "4"]),
    "checkpoints": lambda c: c.update(keep_checkpoints="none"),
}

WRONG: dict[str, Change] = {
    "unknown key": lambda c: c.update(sore={}),
    "unknown key of healing": lambda c: c["prune"].update(
        solvers=[{"name": "lstsq", "heal": {"token": 3}}]
    ),
    "unknown key of a section": lambda c: c["prune"].update(solver=["uidl"]),
    "unknown key of a model": lambda c: c["models"].append({"id": "x", "layers": 3}),
    "no name": lambda c: c.pop("name"),
    "no models": lambda c: c.pop("models"),
    "no solvers": lambda c: c["prune"].pop("solvers"),
    "no tasks": lambda c: c["score"].pop("tasks"),
    "no workloads": lambda c: c["serve"].update(workloads=[]),
    "layers and blocks": lambda c: c["prune"].update(blocks=[[2, 4]]),
    "neither layers nor blocks": lambda c: c["prune"].pop("layers"),
    "count": lambda c: c["prune"].update(layers=[0]),
    "share": lambda c: c["prune"].update(layers=["100%"]),
    "text for a number": lambda c: c.update(calibration={"samples": "many"}),
    "choice": lambda c: c["prune"].update(selector="angle"),
    "unknown solver": lambda c: c["prune"].update(solvers=["lstq"]),
    "parameter of another solver": lambda c: c["prune"].update(solvers=[{"name": "uidl", "ridge": 1}]),
    "range of a parameter": lambda c: c["prune"].update(solvers=[{"name": "lstsq", "ridge": -1}]),
    "label": lambda c: c["prune"].update(solvers=[{"name": "lstsq", "as": 3}]),
    "block": lambda c: c.update(prune={"blocks": [[2]], "solvers": ["uidl"]}),
    "engine": lambda c: c["serve"].update(engine="other"),
    "checkpoints": lambda c: c.update(keep_checkpoints="some"),
}


def changed(change: Change) -> dict[str, Any]:
    content = copy.deepcopy(WHOLE)
    change(content)
    return content


def loads(content: dict[str, Any], path: Path) -> bool:
    path.write_text(yaml.safe_dump(content))
    try:
        suite.load(path)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("name", FINE)
def test_schema_takes_what_is_read(name: str, tmp_path: Path) -> None:
    content = changed(FINE[name])
    assert loads(content, tmp_path / "suite.yaml")
    assert not list(SUITE.iter_errors(content))


@pytest.mark.parametrize("name", WRONG)
def test_schema_refuses_what_is_refused(name: str, tmp_path: Path) -> None:
    content = changed(WRONG[name])
    assert not loads(content, tmp_path / "suite.yaml")
    assert list(SUITE.iter_errors(content))


def test_suite_that_extends_need_not_say_everything() -> None:
    for content in (
        {"extends": "demo"},
        {"extends": "demo", "prune": {"layers": None, "blocks": [[2, 4]]}, "score": {"limit": 3}},
    ):
        SUITE.validate(content)
    assert list(SUITE.iter_errors({"extends": "demo", "prune": {"lyers": [2]}}))
    assert list(SUITE.iter_errors({"extends": 3}))


def test_every_solver_is_named_with_its_parameters() -> None:
    names, *mappings = suite_schema()["$defs"]["SolverSpec"]["anyOf"]
    assert names["enum"] == list(SOLVERS)
    for name, said in zip(SOLVERS, mappings, strict=True):
        assert {"enum": [name]} in said["properties"]["name"]["anyOf"]
        assert set(said["properties"]) == {"name", "as", "heal", *SOLVERS[name].model_fields}
        assert said["description"] == SOLVERS[name].summary


# ---- records


def contents() -> dict[str, dict[str, Any]]:
    """The demo's records as this release writes them."""
    found = Store(Path(__file__).parent / "samples" / "demo").all()
    assert len(found) == 16
    return {stem: json.loads(record.model_dump_json()) for stem, record in found.items()}


def test_records_of_the_demo_are_valid() -> None:
    for content in contents().values():
        RECORD.validate(content)


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("samples/*.json")), ids=str)
def test_upgraded_records_of_older_schemas_are_valid(path: Path) -> None:
    RECORD.validate(json.loads(read_record(path).model_dump_json()))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(extra=1),
        lambda c: c.update(schema_version=1),
        lambda c: c.update(status="done"),
        lambda c: c.update(layers="three"),
        lambda c: c["prune"].update(blocks=[[1]]),
        lambda c: c["prune"].update(more=1),
        lambda c: c.pop("identity"),
        lambda c: next(iter(c["quality"].values())).pop("primary"),
        lambda c: c["serving"].update(processes=[]),
    ],
)
def test_what_is_no_record_is_refused(change: Change) -> None:
    content = next(iter(contents().values()))
    change(content)
    assert list(RECORD.iter_errors(content))
