"""What a GPU finds is what a CPU finds: statistics and solvers, healing, and a whole run."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from replaceme import prune
from replaceme.calibration import Batch
from replaceme.decoder import Decoder
from replaceme.edit import Edit
from replaceme.errors import InputError
from replaceme.healing import Training
from replaceme.healing.distillation import Distillation
from replaceme.healing.pair import Pair
from replaceme.healing.parts import choose
from replaceme.healing.trained import open_parameters
from replaceme.selection import Block
from tests.families import FAMILIES, small

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
DEVICES = ["cpu", "cuda"]
KINDS = ["llama", "gpt_neox", "qwen3_moe", "gemma2"]
SOLVERS = ["uidl", "lstsq", "cosine", "relative", "refit", "reconstruct"]
TASK = Path(__file__).parents[2] / "suites" / "demo"


def model_of(name: str, device: str) -> Any:
    return small(FAMILIES[name].model_type, **FAMILIES[name].settings).to(device)


@torch.no_grad()
def predictions(model: Any) -> torch.Tensor:
    ids = torch.arange(40, device=model.device)[None]
    return model(ids, use_cache=False).logits.log_softmax(-1).double().cpu()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_pruned_models_of_both_devices_predict_the_same(
    name: str, solver: str, tokenizer: Any, texts: list[str]
) -> None:
    found = {}
    for device in DEVICES:
        try:
            made = prune(model_of(name, device), tokenizer, texts, layers=2, solver=solver)
        except InputError as error:
            pytest.skip(str(error))
        found[device] = made.blocks, made.fit.loss, predictions(made.model)
    (blocks, loss, own), (others, other_loss, other) = found.values()
    assert blocks == others
    assert loss == pytest.approx(other_loss, rel=1e-3)
    assert float((own - other).abs().mean()) < 1e-2


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "qwen3_moe", "olmo2"])
@pytest.mark.parametrize("part", ["projection", "mlp", "all"])
def test_losses_and_gradients_of_both_devices_are_the_same(name: str, part: str) -> None:
    found = []
    for device in DEVICES:
        pair = Pair.of_edit(Decoder.of(model_of(name, device)), Edit((Block(3, 5),)))
        training = Training(train=part)  # type: ignore[arg-type]
        trained = open_parameters(pair, training, choose(pair, training))
        distillation, batch = Distillation(pair), Batch.of([[5, 9, 2, 7, 40], [100, 4, 77]])
        loss = distillation.learn(distillation.start([batch]), 1 / 8)
        gradients = {name: p.grad.double().cpu() for name, p in trained.parameters.items()}
        found.append((loss, gradients))
    (loss, own), (other_loss, others) = found
    assert loss == pytest.approx(other_loss, rel=1e-4)
    assert own.keys() == others.keys()
    for tensor, values in own.items():
        assert float((values - others[tensor]).norm()) <= 1e-3 * float(values.norm()) + 1e-7, tensor


@pytest.fixture
def run_on(tiny: Path, tmp_path: Path, command: str) -> Callable[[str, str], dict[str, dict[str, Any]]]:
    """Runs a suite on a device; returns its records."""

    def run(device: str, dtype: str) -> dict[str, dict[str, Any]]:
        suite = {
            "name": device,
            "models": [{"id": str(tiny), "dtype": dtype}],
            "prune": {
                "layers": [2, 3],
                "solvers": [
                    "lstsq",
                    "reconstruct",
                    {"name": "lstsq", "heal": {"tokens": 3000}, "as": "healed"},
                    {"name": "lstsq", "heal": {"tokens": 3000, "train": "all"}, "as": "healed whole"},
                ],
            },
            "calibration": {"samples": 40, "max_length": 64},
            "score": {"tasks": ["demo_facts", "demo_lastword"], "include_path": str(TASK), "limit": 20},
            "device": device,
        }
        path = tmp_path / f"{device}.yaml"
        path.write_text(yaml.safe_dump(suite))
        out = tmp_path / f"{device}-{dtype}"
        done = subprocess.run([command, "run", path, "--out", out], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = map(json.loads, (file.read_text() for file in (out / "records").glob("*.json")))
        return {f"{record['layers']}/{record['label']}": record for record in found}

    return run


def test_a_run_of_both_devices_scores_the_same(run_on: Callable[..., Any]) -> None:
    on_cpu, on_gpu = (run_on(device, "float32") for device in DEVICES)
    assert on_cpu.keys() == on_gpu.keys()
    for name, record in on_cpu.items():
        for task, quality in record["quality"].items():
            other = on_gpu[name]["quality"][task]
            assert other["method"] == "one-pass"
            assert other["peak_device_memory_bytes"] > 0
            mean = quality["metrics"]["acc"]["value"]
            assert other["metrics"]["acc"]["value"] == pytest.approx(mean, abs=0.051)  # an item of 20
            if "perplexity" in quality["metrics"] and not record["heal"]:
                one, two = (math.log(q["metrics"]["perplexity"]["value"]) for q in (quality, other))
                assert one == pytest.approx(two, abs=5e-3)


def test_a_run_in_bfloat16_ends_on_the_gpu(run_on: Callable[..., Any]) -> None:
    for record in run_on("cuda", "bfloat16").values():
        assert record["status"] == "complete"
        assert record["failures"] == []
