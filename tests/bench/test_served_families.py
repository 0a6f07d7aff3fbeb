"""What docs/served.json says of pruned models in vLLM, for a few of different kinds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FEW = ["gemma3_text", "granitemoehybrid", "smolvlm", "bamba"]  # and one that it refuses
KINDS = {
    "dense": ["llama", "qwen3", "phi3", "olmo2"],
    "sliding": ["gemma2", "gemma3_text", "exaone4", "cohere2"],
    "experts": ["mixtral", "qwen3_moe", "olmoe", "gpt_oss", "llama4_text"],
    "hybrid": ["granitemoehybrid", "falcon_h1", "nemotron_h", "lfm2", "qwen3_next"],
    "with images": ["idefics3", "smolvlm", "aria"],
}
KNOWN = json.loads((ROOT / "docs" / "served.json").read_text("utf-8"))


def test_vllm_says_of_pruned_families_what_the_page_tells() -> None:
    command = [sys.executable, "-m", "tests.served", *FEW]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert found == {name: KNOWN[name] for name in FEW}


def test_families_of_all_kinds_answer_in_vllm_as_in_transformers() -> None:
    assert False not in KNOWN.values()
    for names in KINDS.values():
        assert all(KNOWN[name] is True for name in names)
