"""What docs/served.json says of pruned models in vLLM, for a few of different kinds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FEW = ["gemma3_text", "olmoe", "mamba2"]  # sliding windows and norms, experts, and one that it refuses
KNOWN = json.loads((ROOT / "docs" / "served.json").read_text("utf-8"))


def test_vllm_says_of_pruned_families_what_the_page_tells() -> None:
    command = [sys.executable, "-m", "tests.served", *FEW]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert found == {name: KNOWN[name] for name in FEW}


def test_at_least_twelve_families_answer_in_vllm_as_in_transformers() -> None:
    assert False not in KNOWN.values()
    assert sum(how is True for how in KNOWN.values()) >= 12
