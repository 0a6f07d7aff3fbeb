"""Pickles and code that come with models, data and tasks, and the secrets that code could tell."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.store import Store
from bench.tasks.catalog import find_task
from replaceme.calibration import CalibrationData, load_sequences
from replaceme.errors import InputError
from tests.bench.hardening.test_paths import files_below

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]
WriteSuite = Callable[..., Path]
Refused = Callable[..., None]


# ---- pickles


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture
def evil(tmp_path: Path) -> tuple[bytes, Path]:
    """A pickle that creates a file when it is loaded, and that file."""
    marker = tmp_path / "marker"
    content = pickle.dumps(Evil(marker))
    pickle.loads(content)
    assert marker.exists()
    marker.unlink()
    return content, marker


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".pth", ".pt", ".bin"])
def test_pickle_as_calibration_data(
    call_here: Call, refused: Refused, write_suite: WriteSuite, tmp_path: Path, evil: Any, suffix: str
) -> None:
    content, marker = evil
    data = tmp_path / f"data{suffix}"
    data.write_bytes(content)
    suite = write_suite(calibration={"dataset": str(data)})
    refused(call_here("plan", suite), "is a pickle, which can run code when it is read")
    words = ["--layers", "1", "--calibration", data, "--out", tmp_path / "out"]
    refused(call_here("prune", yaml.safe_load(suite.read_text())["models"][0], *words), "is a pickle")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet", "data.txt"])
def test_pickle_under_the_name_of_a_data_set(
    tmp_path: Path, tokenizer: Any, evil: Any, name: str
) -> None:
    content, marker = evil
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_sequences(CalibrationData(dataset=str(tmp_path / name)), tokenizer)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["data.pkl", "data.pickle", "data.bin", "train.pt"])
def test_pickle_in_a_data_set_folder(tmp_path: Path, tokenizer: Any, evil: Any, name: str) -> None:
    content, marker = evil
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_sequences(CalibrationData(dataset=str(tmp_path / "set")), tokenizer)
    assert not marker.exists()


def test_pickle_as_weights_of_a_model(
    call_here: Call, refused: Refused, write_suite: WriteSuite, tiny: Path, tmp_path: Path, evil: Any
) -> None:
    content, marker = evil
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(content)
    refused(call_here("plan", write_suite(models=[str(model)])), "pickled weights", "never read")
    assert not marker.exists()


@pytest.mark.parametrize("path", ["json", "pandas"])
@pytest.mark.parametrize("name", ["data.pkl", "data.dat"])
def test_pickle_as_data_of_a_task(tmp_path: Path, evil: Any, path: str, name: str) -> None:
    content, marker = evil
    (tmp_path / name).write_bytes(content)
    data = {"dataset_path": path, "dataset_kwargs": {"data_files": {"test": name}}, "test_split": "test"}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"task": "t"} | data))
    if path == "json" and name == "data.dat":
        assert find_task("t", [tmp_path]).yaml  # JSON is read as JSON, whatever the name
    else:
        with pytest.raises(InputError, match="a pickle, which can run code"):
            find_task("t", [tmp_path])
    assert not marker.exists()


# ---- code

FUNCTIONS = [
    "!function {outside}/evil.run",
    "!function os.system",
    "!function 'os.system'",
    "!<!function> os.system",
    "!function\n  os.system",
    "!function ..evil.run",
    "!function subprocess.getoutput",
    "!function run",
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("key", ["custom_dataset", "process_docs", "doc_to_text", "class"])
def test_task_function_outside_of_the_folders_that_a_suite_names(
    call_here: Call, refused: Refused, write_suite: WriteSuite, tmp_path: Path, function: str, key: str
) -> None:
    tasks, outside, marker = tmp_path / "tasks", tmp_path / "outside", tmp_path / "marker"
    for folder in (tasks, outside):
        folder.mkdir()
    (outside / "evil.py").write_text(f"open({str(marker)!r}, 'w')\ndef run(*a, **k): pass\n")
    text = function.format(outside=outside)
    (tasks / "t.yaml").write_text(
        f"task: t\n{key}: {text}\ndataset_kwargs: {{command: touch {marker}}}\n"
    )
    suite = write_suite(score={"tasks": ["t"], "include_path": str(tasks)})
    refused(call_here("plan", suite), "t.yaml: !function", "score.include_path")
    assert call_here("run", suite, "--out", tmp_path / "out").returncode == 2
    assert not marker.exists()


def test_task_function_behind_an_include_or_a_link_outside(tmp_path: Path) -> None:
    tasks, outside = tmp_path / "tasks", tmp_path / "outside"
    for folder in (tasks, outside):
        folder.mkdir()
    (outside / "evil.py").write_text("def run(*a, **k): pass\n")
    (outside / "base.yaml").write_text("process_docs: !function evil.run\n")
    (tasks / "t.yaml").write_text(f"task: t\ninclude: {outside / 'base.yaml'}\n")
    (tasks / "link.py").symlink_to(outside / "evil.py")
    (tasks / "u.yaml").write_text("task: u\nprocess_docs: !function link.run\n")
    (tasks / "own.py").write_text("def run(*a, **k): pass\n")
    (tasks / "v.yaml").write_text("task: v\nprocess_docs: !function own.run\n")
    for name in ("t", "u"):
        with pytest.raises(InputError, match="!function"):
            find_task(name, [tasks])
    assert find_task("t", [tasks, outside]).yaml
    before = find_task("v", [tasks]).fingerprint
    (tasks / "own.py").write_text("def run(*a, **k): return None\n")
    assert find_task("v", [tasks]).fingerprint != before


def test_code_that_comes_with_a_model(
    call_here: Call, write_suite: WriteSuite, tiny: Path, tmp_path: Path
) -> None:
    model, marker, out = tmp_path / "model", tmp_path / "marker", tmp_path / "out"
    shutil.copytree(tiny, model)
    code = (
        f"open({str(marker)!r}, 'w')\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
    )
    (model / "remote.py").write_text(code)
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "remote.C", "AutoModelForCausalLM": "remote.M"}
    (model / "config.json").write_text(json.dumps(config))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["remote.C", None]}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    suite = write_suite(models=[str(model)], prune={"layers": [2], "solvers": ["uidl"]})
    result = call_here("run", suite, "--out", out)
    assert result.returncode in (0, 2, 3)
    assert "Traceback" not in result.stderr
    assert call_here(
        "prune", model, "--layers", "1", "--solver", "uidl", "--out", tmp_path / "p"
    ).returncode in (0, 2)
    assert not marker.exists()


# ---- secrets

SECRETS = {
    "HF_TOKEN": "hf_" + "Ab1" * 12,
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "OPENAI_API_KEY": "sk-proj-" + "Zz9" * 12,
    "HTTPS_PROXY": "http://someone:correct-horse@proxy.example:3128",
}
LEAKING = """
import os
import sys

def docs(dataset):
    text = " ".join(os.environ.get(name, "") for name in {names})
    print(text)
    print(text, file=sys.stderr)
    os.write(2, text.encode())
    raise RuntimeError("refused with " + text)
"""


def test_secrets_of_the_environment(
    call: Call, write_suite: WriteSuite, task_folder: Path, tmp_path: Path
) -> None:
    """A whole run, with a task whose code prints the environment and fails with it."""
    tasks, out = tmp_path / "tasks", tmp_path / "out"
    shutil.copytree(task_folder, tasks)
    (tasks / "leaking.py").write_text(LEAKING.replace("{names}", repr([*SECRETS])))
    leak = (tasks / "colours.yaml").read_text().replace("task: colours", "task: leak")
    (tasks / "leak.yaml").write_text(leak + "process_docs: !function leaking.docs\n")
    suite = write_suite(
        prune={"layers": [2], "solvers": ["lstsq"]},
        score={"tasks": ["colours", "leak"], "include_path": str(tasks), "batch_tokens": 512},
    )
    result = call("run", suite, "--out", out, env=SECRETS)
    assert result.returncode == 3, result.stderr
    page = call("report", out, "--format", "html", "-o", out / "page.html", env=SECRETS)
    assert page.returncode == 0
    (label,) = [r.label for r in Store(out).all().values() if r.layers]
    card = call("card", f"tiny/2/{label}", "--results", out, "-o", out / "card.md", env=SECRETS)
    assert card.returncode == 0
    reasons = [f.error for r in Store(out).all().values() for f in r.failures]
    assert len(reasons) == 2
    assert all("refused with *** *** *** http://***@proxy.example:3128" in reason for reason in reasons)
    files = files_below(out)
    assert {"records", "samples", "edits", "checkpoints", "logs", "page.html", "card.md"} <= {
        name.split("/")[0] for name in files
    }
    assert any(name.endswith("replaceme.json") for name in files)
    assert b"refused" in b"".join(
        content for name, content in files.items() if name.startswith("records/")
    )
    values = [*SECRETS.values(), "correct-horse"]
    for name, content in files.items():
        plain = gzip.decompress(content) if name.endswith(".gz") else content
        for value in values:
            assert value.encode() not in plain, name
    for value in values:
        assert value not in result.stdout + result.stderr
