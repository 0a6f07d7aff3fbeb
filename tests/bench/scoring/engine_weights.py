"""Reads, in a process of its own, the weights that an engine computes with; and changes them.

``python engine_weights.py FOLDER FOLDER``: prints for each state of the engine with which of the two
checkpoints its matrices agree bit for bit.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

import torch
from safetensors.torch import load_file

from bench.serving.swap import Weights

PARTS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "o_proj": ("o_proj",),
    "down_proj": ("down_proj",),
}


class Reading(Weights):
    def read_matrices(self) -> dict[str, torch.Tensor]:
        """Each matrix [out, in] as its kernel applies it.

        They are the images of the unit vectors, exact in float32 whatever layout the kernel has.
        """
        matrices = {}
        for name, module in self.model_runner.get_model().named_modules():
            if name.rpartition(".")[2] in PARTS:
                unit = torch.eye(module.input_size)
                matrices[name] = module.quant_method.apply(module, unit, None).T.contiguous()
        return matrices


def main(first: Path, second: Path) -> None:
    from vllm import LLM

    engine = LLM(
        str(first),
        dtype="float32",
        enforce_eager=True,
        kv_cache_memory_bytes=2**27,
        worker_extension_cls="engine_weights.Reading",
    )
    print("STATE", *(agrees(engine, folder) for folder in (first, second)))
    for before, after in ((first, second), (second, first)):
        changed = engine.collective_rpc("swap", args=(str(before), str(after)))[0]
        print("STATE", *(agrees(engine, folder) for folder in (first, second)), changed)


def agrees(engine: Any, folder: Path) -> bool:
    """Whether all matrices of an engine are those of a checkpoint, bit for bit."""
    stored = load_file(folder / "model.safetensors")
    (matrices,) = engine.collective_rpc("read_matrices")
    assert len(matrices) % 4 == 0
    assert matrices
    for name, matrix in matrices.items():
        parent, _, last = name.rpartition(".")
        parts = [stored[f"{parent}.{part}.weight"] for part in PARTS[last]]
        if not torch.equal(matrix, torch.cat(parts)):
            return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
