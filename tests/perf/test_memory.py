"""Peak memory, in processes of their own: calibrating on more text, saving a checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from replaceme import Block, Edit, write_checkpoint
from replaceme.architectures import architecture_of_model
from replaceme.edit import apply

pytestmark = pytest.mark.slow

EDIT = Edit((Block(13, 19),), {12: 1.25 * torch.eye(576, dtype=torch.float64)})

# Else glibc keeps what was freed: up to 90 MB of 770, another part in each process.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072"}

CALIBRATE = """
import sys, torch
from transformers import AutoModelForCausalLM
import replaceme
from replaceme.calibration import Batches
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
rows = torch.randint(2, 512, (int(sys.argv[2]), 128), generator=torch.Generator().manual_seed(0))
solvers = [replaceme.make_solver(name) for name in ("lstsq", "relative", "refit")]
found = replaceme.calibrate(model, Batches(rows.tolist()), counts=[2, 3], solvers=solvers)
for solver in solvers:
    replaceme.fit(solver, found, found.choices[3].blocks)
"""

STREAM = """
import sys
from pathlib import Path
from tests.perf.test_memory import stream
stream(Path(sys.argv[1]), Path(sys.argv[2]))
"""


IMPORTS = """
from transformers import CONFIG_MAPPING
from tests.perf.test_memory import stream
CONFIG_MAPPING["llama"]
"""

REPORT = """
from pathlib import Path
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)
"""


def stream(source: Path, out: Path) -> None:
    write_checkpoint(source, out, EDIT, None, overwrite=True)


def load_and_save(source: Path, out: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source)
    apply(model, architecture_of_model(model, "SmolLM2"), EDIT)
    model.save_pretrained(out)


def peak_bytes(script: str, *arguments: Any, **variables: str) -> int:
    """Peak resident bytes of a Python process; ``ru_maxrss`` would count those of its parent as well."""
    command = [sys.executable, "-c", script + REPORT, *map(str, arguments)]
    root, environment = Path(__file__).parents[2], os.environ | variables
    run = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=root, env=environment
    )
    return int(run.stdout.split()[-1])


@pytest.mark.benchmark(group="calibration on 8 times the text")
def test_memory_of_calibration_does_not_grow_with_the_text(
    benchmark: Any, save_model: Any, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "model", hidden_size=256, intermediate_size=768, head_dim=128)
    once = peak_bytes(CALIBRATE, folder, 48, **GIVE_BACK)
    eight_times = benchmark.pedantic(peak_bytes, (CALIBRATE, folder, 8 * 48), GIVE_BACK, rounds=1)
    benchmark.extra_info |= {"peak MB": eight_times / 1e6, "peak MB with an eighth": once / 1e6}
    assert eight_times < 1.02 * once


@pytest.mark.benchmark(group="a pruned checkpoint of the real model")
@pytest.mark.parametrize("write", [stream, load_and_save], ids=lambda way: way.__name__)
def test_pruned_checkpoint(benchmark: Any, source: Path, tmp_path: Path, write: Any) -> None:
    script = STREAM.replace("stream", write.__name__)
    benchmark.extra_info |= {
        "peak MB": peak_bytes(script, source, tmp_path / "there") / 1e6,
        "peak MB of the imports": peak_bytes(IMPORTS) / 1e6,
    }
    benchmark.pedantic(write, (source, tmp_path / "out"), rounds=3, warmup_rounds=1)
    stream(source, tmp_path / "wanted")
    got, wanted = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "wanted"))
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
