"""Prune, score and serve in one run; transformers and vLLM agree on what the checkpoints say."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.records import Record
from bench.store import Store

pytestmark = pytest.mark.slow

PROMPTS = [
    "My grandmother kept the good plates",
    "When the bell rang that Sunday",
    "The capital of France is",
    "It had not rained for months, so the river",
    "She reached behind her for the bread",
]
NEW_TOKENS = 16
GENERATE = """
import json, sys
from vllm import LLM, SamplingParams
limits = {"max_model_len": 128, "kv_cache_memory_bytes": 2**27}
for folder, dtype, prompts, new in json.loads(sys.argv[1]):
    engine = LLM(model=folder, dtype=dtype, enforce_eager=True, **limits)
    found = engine.generate(
        [{"prompt_token_ids": ids} for ids in prompts],
        SamplingParams(temperature=0, max_tokens=new, ignore_eos=True),
    )
    print("TOKENS", json.dumps([list(output.outputs[0].token_ids) for output in found]))
    del engine
"""


def prompts_of(folder: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]


def disagreements(folder: Path, answers: list[list[int]]) -> list[tuple[str, float]]:
    """Prompts where vLLM leaves transformers' greedy path, and by how much it is the worse choice there.

    The second value is (best logit − logit of vLLM's token) at the first token that differs, in units
    of the spacing of the checkpoint's dtype at that logit.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    assert model.dtype == torch.float32
    found = []
    for text, ids, theirs in zip(PROMPTS, prompts_of(folder), answers, strict=True):
        assert len(theirs) == NEW_TOKENS
        sequence = list(ids)
        for token in theirs:
            with torch.no_grad():
                logits = model(torch.tensor([sequence])).logits[0, -1]
            best = int(logits.argmax())
            if best != token:
                spacing = torch.finfo(logits.dtype).eps * float(logits[best].abs())
                found.append((text, float(logits[best] - logits[token]) / spacing))
                break
            sequence.append(token)
    return found


@pytest.fixture(scope="module")
def served(
    call: Callable[..., subprocess.CompletedProcess[str]],
    small_suite: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, str]:
    """The result folder of a run with serving, and what it printed."""
    folder = tmp_path_factory.mktemp("served")
    changes = {
        "prune": {"layers": [3], "solvers": ["uidl", "lstsq"]},
        "serve": {
            "enforce_eager": True,
            "repeats": 2,
            "processes": 2,
            "kv_cache_gib": 0.0625,
            "workloads": [{"input_len": 16, "output_len": 8, "batch_size": 1}],
        },
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(small_suite | changes))
    result = call("run", folder / "suite.yaml", "--out", folder / "out")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "out", result.stdout


def by_label(out: Path) -> dict[str, Record]:
    return {record.label: record for record in Store(out).all().values()}


def test_each_shape_is_measured_once_and_shared(served: tuple[Path, str]) -> None:
    records = by_label(served[0])
    serving: dict[str, Any] = {label: record.serving for label, record in records.items()}
    assert serving["lstsq"] == serving["uidl"]
    assert serving["baseline"] != serving["uidl"]
    assert serving["lstsq"].measured_on == "tiny/3/uidl"
    assert len(list((served[0] / "logs").glob("serve-*.log"))) == 4


def test_pruned_shape_needs_less_memory(served: tuple[Path, str]) -> None:
    records = by_label(served[0])
    whole, pruned = (records[label].serving for label in ("baseline", "lstsq"))
    assert whole and pruned
    before, after = whole.result.memory, pruned.result.memory
    assert before.kv_bytes_per_token and after.kv_bytes_per_token
    assert 5 * before.kv_bytes_per_token == 8 * after.kv_bytes_per_token
    assert before.weights_bytes and after.weights_bytes
    assert before.weights_bytes > after.weights_bytes


def test_table_shows_serving_beside_quality(served: tuple[Path, str]) -> None:
    for header in ("16→8", "p50", "tok/s", "speed-up", "weights", "KV/token", "RP"):
        assert header in served[1]


@pytest.fixture(scope="module")
def answered(
    served: tuple[Path, str],
    run_vllm: Callable[..., list[str]],
    call_here: Callable[..., subprocess.CompletedProcess[str]],
    save_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Path, list[list[int]]]]:
    """Family → a pruned checkpoint and vLLM's greedy tokens."""
    folder = tmp_path_factory.mktemp("families")
    data = ["--samples", 16, "--max-length", 32, "--device", "cpu"]
    (llama,) = (served[0] / "checkpoints").glob("*lstsq*")
    folders = {"llama": llama}
    for family, solver in (("qwen3", "reconstruct"), ("mixtral", "lstsq")):
        experts = {"num_local_experts": 4} if family == "mixtral" else {}
        model = save_model(folder / family, family, num_hidden_layers=4, **experts)
        out = folders[family] = folder / f"{family}-pruned"
        result = call_here("prune", model, "--blocks", "2:3", "--solver", solver, *data, "--out", out)
        assert result.returncode == 0, result.stderr
    jobs = [(str(path), "float32", prompts_of(path), NEW_TOKENS) for path in folders.values()]
    answers = [json.loads(line) for line in run_vllm("TOKENS", "-c", GENERATE, json.dumps(jobs))]
    return {
        family: (path, tokens) for (family, path), tokens in zip(folders.items(), answers, strict=True)
    }


@pytest.mark.parametrize("family", ["llama", "qwen3", "mixtral"])
def test_vllm_and_transformers_generate_the_same_tokens(
    answered: dict[str, tuple[Path, list[list[int]]]], family: str
) -> None:
    assert not disagreements(*answered[family])


def test_each_checkpoint_is_measured_in_the_engine_of_its_shape(
    call: Callable[..., subprocess.CompletedProcess[str]], small_suite: dict[str, Any], tmp_path: Path
) -> None:
    changes = {
        "prune": {"layers": [3], "solvers": ["uidl", "lstsq"]},
        "score": None,
        "serve": {
            "enforce_eager": True,
            "repeats": 2,
            "processes": 1,
            "per_checkpoint": True,
            "kv_cache_gib": 0.0625,
            "workloads": [{"input_len": 16, "output_len": 8, "batch_size": 1}],
        },
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(small_suite | changes))
    done = call("run", tmp_path / "suite.yaml", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    serving = {label: record.serving for label, record in by_label(tmp_path / "out").items()}
    weights = {label: found.processes[0].weights for label, found in serving.items() if found}
    assert weights == {"baseline": "engine", "uidl": "engine", "lstsq": "swap"}
    assert len({found.measured_on for found in serving.values() if found}) == 3
    assert len(list((tmp_path / "out" / "logs").glob("serve-*.log"))) == 2
