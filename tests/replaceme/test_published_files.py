"""The YAML files of the published repository, as they are but for the model and the data."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from replaceme.compat import commands as seed
from replaceme.compat.config import SeedConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "suites" / "published").glob("*.yaml"))
COMMON = """\
model_path: "{model}"
dataset: "{data}"
dataset_column: "{column}"
batch_size: 8
max_length: 1024
dataset_size: 40
dataset_subset: "train"
use_4bit: {four_bits}
"""
SAVED = """\
save_path: null
min_distance_layer: 20
"""
LSTSQ = """\
save_transform_only: True
diag: False # a comment
alpha: 0
"""
COSINE = """\
save_transform_only: True
diag: False
two_vectors: False
thri: False
solver: "adam"
loss: "cosine"
layers_to_skip: 8
"""
ONE = """\
distances_path: null
num_A: 1
layers_to_skip: 2
"""
TWO = """\
distances_path: "./distances.pth"
num_A: 2
layers_to_skip: 2
"""
TASKS = """\
tasks:
    winogrande:
        fewshots: 5
"""
FILES = {
    "reproduce lstsq": (
        "run_replaceme",
        'method: "lstsq"\n',
        LSTSQ + ONE + "merge_consecutive: True \n",
    ),
    "reproduce cosine": (
        "run_replaceme",
        'method: "cosine"\n',
        COSINE + ONE + "merge_consecutive: False \naccurate: False\n",
    ),
    "reproduce uidl": ("run_uidl", "", ONE + "merge_consecutive: True \n"),
    "example lstsq": (
        "run_replaceme",
        'method: "lstsq"\n',
        LSTSQ + ONE.replace("null", '"./distances.pth"') + "merge_consecutive: True \n" + TASKS,
    ),
    "example cosine": (
        "run_replaceme",
        'method: "cosine"\n',
        COSINE + TWO + "merge_consecutive: False \n" + TASKS,
    ),
    "example estimation": ("get_lt_with_lstsq", "", LSTSQ + TWO + "merge_consecutive: True \n"),
    "example solvers": ("get_lt_with_solvers", "", COSINE + TWO + "merge_consecutive: False \n"),
}


@pytest.fixture
def data(texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Conversations as in the published data set, with their texts."""
    monkeypatch.chdir(tmp_path)
    roles = ("system", "human", "gpt")
    with Path("orca.jsonl").open("w", encoding="utf-8") as file:
        for text in texts[:48]:
            turns = zip(roles, ("Be brief.", text, text[::-1]), strict=True)
            talk = [{"from": role, "value": value, "weight": None} for role, value in turns]
            file.write(json.dumps({"conversations": talk, "text": text}) + "\n")
    return Path("orca.jsonl")


def written(start: str, rest: str, model: Path, data: Path, **changes: Any) -> None:
    values = {"model": model, "data": data, "column": "text", "four_bits": False} | changes
    Path("config.yaml").write_text(start + COMMON.format(**values) + rest, "utf-8")


def call(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(getattr(seed, command), arguments)


@pytest.mark.parametrize("name", FILES)
def test_the_published_files_run_as_they_are(name: str, tiny: Path, data: Path) -> None:
    command, start, rest = FILES[name]
    written(start, SAVED + rest, tiny, data, column="conversations" if "cosine" in name else "text")
    result = call(command, "--config", "config.yaml")
    assert result.exit_code == 0, result.output
    folder = Path(re.findall(r"Wrote (\S*)\.", result.stdout)[0])
    assert folder.parent.name == "output_models"
    config = json.loads((folder / "config.json").read_text("utf-8"))
    removed = 4 if "num_A: 2" in rest else 2
    assert config["num_hidden_layers"] == 8 - removed
    assert ("stands twice; the last one counts" in result.stderr) == ("layers_to_skip: 8" in rest)
    assert "min_distance_layer changes nothing" in result.stderr
    assert len(json.loads(Path("distances.json").read_text("utf-8"))) == 6
    assert result.stdout.splitlines()[-1].startswith("To score it: evaluate_model --config config.yaml")


def test_the_analysis_writes_what_the_pruning_reads(tiny: Path, data: Path) -> None:
    written("", "layers_to_skip: 2\n", tiny, data)
    result = call("get_distance_analysis", "--config", "config.yaml")
    assert result.exit_code == 0, result.output
    distances = json.loads(Path("distances.json").read_text("utf-8"))
    with Path("layer_distances.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["average_distance"]) for row in rows] == distances
    assert [(row["block_start"], row["block_end"]) for row in rows[:2]] == [("1", "3"), ("2", "4")]
    start = distances.index(min(distances)) + 1
    assert f"Layers [{start}, {start + 2}) (0-based, the end stays) of 8" in result.stdout
    done = call("get_lt_with_lstsq", "--config", "config.yaml")
    assert "the distances are read from distances.json" in done.stderr
    assert f"Removed layers [{start}, {start + 2})" in done.stdout


def test_a_token_of_the_hub_is_used_and_recorded_nowhere(
    tiny: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    given = []

    def download(source: str, token: str | None = None, **_: Any) -> str:
        given.append((source, token))
        return str(tiny)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    secret = "hf_" + "x" * 34
    rest = f"layers_to_skip: 2\ntoken: {secret}\nactivations_save_path: here\nsave_path: out\n"
    written("", rest, Path("someone/gated"), data)
    result = call("run_uidl", "--config", "config.yaml")
    assert result.exit_code == 0, result.output
    assert set(given) == {("someone/gated", secret)}
    assert "activations_save_path changes nothing" in result.stderr
    assert secret not in result.output
    kept = [file for file in Path().rglob("*") if file.is_file() and file.name != "config.yaml"]
    assert kept
    assert not [file for file in kept if secret.encode() in file.read_bytes()]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_settings_are_those_of_the_published_code(file: Path) -> None:
    settings = yaml.safe_load(file.read_text("utf-8"))
    config = SeedConfig.model_validate(settings)
    example = file.stem.endswith("example")
    assert config.model_path == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert (config.dataset, config.dataset_subset) == ("Open-Orca/SlimOrca", "train")
    assert (config.batch_size, config.max_length) == (8, 1024)
    assert config.dataset_size == (128 if example else 8000)
    assert config.use_4bit
    two = file.stem == "cosine_example"
    assert (config.layers_to_skip, config.num_A) == ((4, 2) if two else (8, 1))
    assert config.merge_consecutive == ("cosine" not in file.stem)
    assert config.tasks == ({"winogrande": 5} if example else None)
    assert config.method == {"uidl": None}.get(file.stem, file.stem.removesuffix("_example"))


def test_files_of_the_published_repository_mean_the_shipped_ones_where_they_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    basic = Path("./reproduce/Replace_Me_pipeline_lstsq.yaml")
    assert seed.find(basic) == ROOT / "suites/published/lstsq.yaml"
    assert "reproduce/Replace_Me_pipeline_lstsq.yaml is not there" in capsys.readouterr().err
    assert {seed.find(Path(name)) for name in seed.SHIPPED} == set(SHIPPED)
    basic.parent.mkdir()
    basic.write_text("method: lstsq", "utf-8")
    assert seed.find(basic) == basic
    assert seed.find(Path("Replace_Me_pipeline_lstsq.yaml")) == Path("Replace_Me_pipeline_lstsq.yaml")


def test_every_published_command_is_installed_and_takes_its_settings_from_a_file() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    published = {"run_replaceme", "run_uidl", "get_distance_analysis", "evaluate_model"}
    published |= {"get_lt_with_lstsq", "get_lt_with_solvers"}
    assert published <= scripts.keys()
    for name in published:
        module, _, function = scripts[name].partition(":")
        command = getattr(import_module(module), function)
        assert command.name == name
        result = CliRunner().invoke(command, ["--method", "cosine"])
        assert result.exit_code == 2
        assert f"The settings are keys of a file: {name} --config FILE." in result.output


@pytest.mark.parametrize("name", ["run_replaceme", "get_distance_analysis"])
def test_help_of_the_commands_imports_nothing_heavy(name: str) -> None:
    heavy = {"torch", "transformers", "datasets", "bench"}
    program = (
        f"import sys\nfrom replaceme.compat.commands import {name}\n"
        f"{name}(['--help'], standalone_mode=False)\n"
        f"assert not {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=os.environ)
