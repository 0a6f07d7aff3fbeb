"""What is scored is what the checkpoint holds, tensor by tensor, whatever its config says of dtypes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from bench.scoring.answers import Answers
from bench.scoring.one_pass import OnePass
from bench.store import Store
from replaceme.edit import Edit, prune_temporarily
from replaceme.hooks import other_values
from replaceme.io import loading
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint

pytestmark = pytest.mark.slow

BLOCK = Block(3, 5)
DOWN, NORM = "mlp.down_proj.weight", "input_layernorm.weight"
Save = Callable[..., Path]
Call = Callable[..., subprocess.CompletedProcess[str]]


def as_files(name: str, values: Tensor) -> Tensor:
    """The dtypes that a checkpoint mixes: norms in float32, a layer in float64, the rest as it comes."""
    if "layers.2." in name:
        return values.double()
    return values if "norm" in name else values.bfloat16()


def other_config(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in (config | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


@pytest.fixture(scope="module")
def sources(save_model: Save, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    found = {
        "float32 files": other_config(save_model(folder / "wide"), dtype="bfloat16"),
        "bfloat16 files": other_config(save_model(folder / "narrow", dtype="bfloat16"), dtype="float32"),
        "mixed files": other_config(save_model(folder / "mixed"), dtype=None),
    }
    file = found["mixed files"] / "model.safetensors"
    mixed = {name: as_files(name, values) for name, values in load_file(file).items()}
    save_file(mixed, file, {"format": "pt"})
    return found


@pytest.fixture(scope="module")
def edits() -> dict[str, Edit]:
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(64, 64, generator=generator, dtype=torch.float64)
    transform = torch.eye(64, dtype=torch.float64) + 0.1 * noise
    weights = {
        (2, DOWN): torch.randn(64, 96, generator=generator, dtype=torch.float64),
        (6, NORM): torch.rand(64, generator=generator, dtype=torch.float64),
    }
    return {
        "baseline": Edit(),
        "removal": Edit((BLOCK,)),
        "transform": Edit((BLOCK,), {2: transform, 6: transform}),
        "weights": Edit((BLOCK,), {}, weights),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cast", [None, "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["float32 files", "bfloat16 files", "mixed files"])
def test_scored_tensors_are_those_of_the_checkpoint_bit_by_bit(
    sources: dict[str, Path],
    edits: dict[str, Edit],
    tmp_path: Path,
    kind: str,
    cast: str | None,
    dtype: str,
) -> None:
    source = sources[kind]
    scorer = OnePass(
        source, edits, saved_in=cast, dtype=dtype, device="cpu", batch_size=4, answers=Answers()
    )
    if cast == "float16" and dtype == "bfloat16":
        assert scorer.obstacle == "its files are cast to float16, and that is computed in bfloat16"
        return
    assert scorer.obstacle is None
    fork, model = scorer.sweep.fork, scorer.lm.model
    for name, edit in edits.items():
        write_checkpoint(source, tmp_path / name, edit, None, dtype=cast)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=dtype).state_dict()
        removal = Edit(edit.blocks)
        with (
            other_values(fork.changes(name)),
            prune_temporarily(model, fork.decoder.architecture, removal),
        ):
            ours = model.state_dict()
            assert ours.keys() == theirs.keys()
            for key, values in theirs.items():
                assert ours[key].dtype == values.dtype
                assert torch.equal(ours[key], values), (name, key)


# ---- which dtype is a checkpoint's own

DECLARED: list[dict[str, Any]] = [
    {},
    {"dtype": None},
    {"dtype": None, "torch_dtype": "float16"},
    {"dtype": "float16"},
    {"dtype": "float16", "torch_dtype": "bfloat16"},
    {"dtype": "float64"},
]


@pytest.mark.parametrize("declared", DECLARED, ids=str)
@pytest.mark.parametrize("files", ["float32", "bfloat16"])
def test_own_dtype_is_the_one_that_transformers_loads(
    save_model: Save, tmp_path: Path, files: str, declared: dict[str, Any]
) -> None:
    folder = other_config(save_model(tmp_path / "m", dtype=files, num_hidden_layers=1), **declared)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert loading.checkpoint_dtype(folder) == str(model.dtype).removeprefix("torch.")


@pytest.mark.parametrize(
    ("kind", "dtype", "cast"),
    [
        ("float32 files", None, False),
        ("float32 files", "bfloat16", True),
        ("float32 files", "float32", True),
        ("bfloat16 files", "bfloat16", True),
        ("mixed files", "bfloat16", True),
    ],
)
def test_checkpoint_is_cast_where_its_config_or_a_file_says_otherwise(
    sources: dict[str, Path], kind: str, dtype: str | None, cast: bool
) -> None:
    assert loading.is_cast(sources[kind], dtype) == cast


def test_checkpoint_in_the_wanted_dtype_is_not_cast(tiny: Path) -> None:
    assert not loading.is_cast(tiny, "float32")


# ---- lm-eval's command line


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_are_those_of_lm_evals_command_line(
    call_here: Call,
    sources: dict[str, Path],
    task_folder: Path,
    small_suite: dict[str, Any],
    tmp_path: Path,
    dtype: str,
) -> None:
    """The config says bfloat16 and the files hold float32; lm-eval's default dtype is the config's."""
    score = {"tasks": ["endings"], "include_path": str(task_folder), "dtype": dtype}
    suite = small_suite | {"models": [str(sources["float32 files"])], "score": score}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    out = tmp_path / "out"
    assert call_here("run", tmp_path / "suite.yaml", "--out", out).returncode == 0
    (stem, record), *_ = ((s, r) for s, r in Store(out).all().items() if r.label == "lstsq")
    checkpoint = out / "checkpoints" / stem
    settings = f"pretrained={checkpoint}" + (",dtype=float32" if dtype == "float32" else "")
    words = ["--model", "hf", "--model_args", settings, "--tasks", "endings", "--device", "cpu"]
    places = ["--include_path", str(task_folder), "--output_path", str(tmp_path / "theirs")]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *words, *places, "--batch_size", "1"],
        capture_output=True,
        text=True,
        cwd=task_folder,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "theirs").rglob("results_*.json")
    theirs = json.loads(file.read_text())["results"]["endings"]
    task = record.quality["endings"]
    assert task.method == "one-pass"
    relative = 1e-5 if dtype == "float32" else 0.02  # rounding of bfloat16 in sums of a few tokens
    assert task.metrics["perplexity"].value == pytest.approx(theirs["perplexity,none"], rel=relative)
    if dtype == "float32":
        assert task.metrics["acc"].value == theirs["acc,none"]
