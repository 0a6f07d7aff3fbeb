"""A model whose rotary embedding depends on its batch, scored both ways and verified."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from bench.scoring.answering import AnsweringLM
from bench.scoring.beside import dependence
from bench.scoring.tasks import PreparedTask
from bench.store import Store
from bench.tasks.catalog import find_task
from bench.tasks.spec import TaskSpec
from replaceme.lengths import Lengths

pytestmark = pytest.mark.slow

SWITCH = 48
ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 16,
    "long_factor": [1.0 + 2 * i for i in range(16)],
    "original_max_position_embeddings": SWITCH,
}
WORDS = ["red", "blue", "green", "yellow", "black", "white", "small", "large"]
METRICS = [{"metric": name, "aggregation": "mean"} for name in ("acc", "acc_norm")]
CHOOSE = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{c}}",
    "doc_to_target": "a",
    "metric_list": METRICS,
}
SPEAK = {
    "output_type": "generate_until",
    "doc_to_target": "{{c[0]}}",
    "generation_kwargs": {"max_gen_toks": 3},
    "metric_list": [{"metric": "exact_match"}],
}
DEPENDS = f"its rotary embedding changes beyond {SWITCH} tokens, for all requests of a batch"
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a switch, and two tasks with requests on both sides of it."""
    folder = tmp_path_factory.mktemp("beside")
    save_model(
        folder / "model",
        "phi3",
        rope_parameters=ROPE,
        original_max_position_embeddings=SWITCH,
        sliding_window=None,
    )
    draw = random.Random(2)
    rows = [
        {
            "q": " ".join(f"Box {k} is {draw.choice(WORDS)}." for k in range((1, 2, 6, 9)[i % 4])),
            "c": draw.sample(WORDS, 4),
            "a": i % 4,
        }
        for i in range(16)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, own in {"choose": CHOOSE, "speak": SPEAK}.items():
        task = {"task": name, "dataset_path": "json", "test_split": "test", "doc_to_text": "{{q}} It is"}
        data = {"dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | data | own))
    return folder


def prepared(folder: Path, name: str) -> PreparedTask:
    return PreparedTask(TaskSpec(task=name), find_task(name, [folder]), None)


def write_suite(folder: Path, path: Path, **score: Any) -> Path:
    suite = {
        "name": "beside",
        "models": [str(folder / "model")],
        "prune": {"blocks": [[3, 5]], "solvers": ["lstsq"]},
        "calibration": {"samples": 16, "max_length": 32},
        "score": {
            "tasks": ["choose", "speak"],
            "include_path": str(folder),
            "batch_size": 8,
            "generate": "transformers",
        }
        | score,
        "device": "cpu",
    }
    path.write_text(yaml.safe_dump(suite))
    return path


def alone(checkpoint: Path, task: PreparedTask) -> dict[str, float]:
    """lm-eval's metrics with a batch size of 1."""
    lm = HFLM(pretrained=str(checkpoint), dtype="float32", device="cpu", batch_size=1)
    return {name: metric["value"] for name, metric in task.score(lm, bootstraps=0).metrics.items()}


@pytest.mark.parametrize("method", ["one-pass", "per-variant"])
def test_scores_are_those_of_one_request_at_a_time(
    call_here: Call, folder: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "out"
    suite = write_suite(folder, tmp_path / "suite.yaml", method=method)
    assert call_here("run", suite, "--out", out).returncode == 0
    for stem, record in Store(out).all().items():
        checkpoint = out / "checkpoints" / stem if record.label == "lstsq" else folder / "model"
        for name, task in record.quality.items():
            found = {key: metric.value for key, metric in task.metrics.items()}
            assert found == alone(checkpoint, prepared(folder, name))
            if task.method == "per-variant":
                assert task.reason
                assert task.reason.endswith(f"; one request at a time: {DEPENDS}")
    assert record.quality["choose"].method == method


def test_verify_agrees_and_fails_where_the_switch_is_not_heeded(
    call_here: Call, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, out = write_suite(folder, tmp_path / "suite.yaml"), tmp_path / "out"
    result = call_here("verify", suite, "--cell", "model/baseline", "--out", out)
    assert result.returncode == 0, result.stdout
    monkeypatch.setattr(Lengths, "of", lambda _config: Lengths())
    result = call_here("verify", suite, "--cell", "model/baseline", "--out", out)
    assert result.returncode == 1
    assert "They differ by more than float rounding explains." in result.stderr


def test_run_leaves_one_pass_where_the_switch_is_not_known(
    call_here: Call, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a model whose dependence no config tells: trying finds it, in both ways of scoring."""
    monkeypatch.setattr(Lengths, "of", lambda _config: Lengths())
    suite, out = write_suite(folder, tmp_path / "suite.yaml"), tmp_path / "out"
    assert call_here("run", suite, "--out", out).returncode == 0
    for stem, record in Store(out).all().items():
        checkpoint = out / "checkpoints" / stem if record.label == "lstsq" else folder / "model"
        for name, task in record.quality.items():
            assert task.reason
            assert task.reason.endswith("it answers a request differently beside a longer one")
            found = {key: metric.value for key, metric in task.metrics.items()}
            assert found == alone(checkpoint, prepared(folder, name))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["choose", "speak"])
def test_ordinary_models_are_asked_in_batches(folder: Path, tiny: Path, dtype: str, name: str) -> None:
    lm = AnsweringLM(str(tiny), dtype=dtype, device="cpu", batch_size=8)
    assert dependence(lm, prepared(folder, name).instances) is None


@pytest.mark.parametrize("name", ["choose", "speak"])
def test_layer_that_scales_by_the_largest_of_its_batch_is_found(
    folder: Path, tiny: Path, name: str
) -> None:
    """As quantisation of activations with one scale for a whole batch does."""
    lm = AnsweringLM(str(tiny), dtype="float32", device="cpu", batch_size=8)

    def coarse(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        scale = output.abs().amax() / 7
        return (output / scale).round() * scale

    torch.manual_seed(0)
    lm.model.model.layers[3].mlp.register_forward_hook(coarse)
    found = dependence(lm, prepared(folder, name).instances)
    assert found == "it answers a request differently beside a longer one"
