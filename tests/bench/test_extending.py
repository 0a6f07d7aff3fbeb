"""A solver and a selector are one file each: those of the guide, put into a copy of the packages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/extending.md").read_text("utf-8")
SOLVER, SELECTOR = re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
PROGRAM = """
import sys
from pathlib import Path
from click.testing import CliRunner
from bench.cli import main

suite, out = Path(sys.argv[1]), Path(sys.argv[2])
for arguments in [
    ["list", "solvers"],
    ["plan", suite, "--out", out],
    ["run", suite, "--out", out],
    ["report", out, "--format", "html", "-o", out / "page.html"],
    ["prune", suite.parent / "tiny", "--layers", 2, "--solver", "share", "--selector", "first",
     "--out", suite.parent / "pruned", "--device", "cpu", "--samples", 16, "--max-length", 32],
]:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    print(result.output)
    if result.exit_code:
        raise SystemExit(f"{arguments} {result.exception!r}")
"""


@pytest.fixture(scope="module")
def added(tiny: Path, task_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of what was made with a solver and a selector that were added, and what was said."""
    folder = tmp_path_factory.mktemp("added")
    for package in ("replaceme", "bench"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "replaceme/solvers/share.py").write_text(SOLVER)
    (folder / "replaceme/selectors/first.py").write_text(SELECTOR)
    (folder / "tiny").symlink_to(tiny)
    suite = {
        "name": "added",
        "models": ["./tiny"],
        "prune": {"layers": [2], "selector": "first", "solvers": [{"name": "share", "share": 0.25}]},
        "calibration": {"samples": 16, "max_length": 32},
        "score": {"tasks": ["colours"], "include_path": str(task_folder), "limit": 2},
        "device": "cpu",
    }
    (folder / "suite.yaml").write_text(json.dumps(suite))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder / "suite.yaml", folder / "out"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_a_new_solver_and_a_new_selector_are_listed_and_planned(added: tuple[Path, str]) -> None:
    assert "share: a share of what the MLP adds" in added[1]
    assert "tiny/2/share" in added[1]


def test_they_are_told_with_their_own_words(added: tuple[Path, str]) -> None:
    folder, said = added
    assert "Removed layers [1, 3) (0-based, the end stays) of 8." in said
    assert "Chosen by first at place 1.0000; runner-up [2, 4) at 2.0000." in said
    page = (folder / "out/page.html").read_text("utf-8")
    assert "first: 1.0000 (number of the first layer that goes)" in page
    card = (folder / "pruned/README.md").read_text("utf-8")
    assert "the solver `share` (`share 0.5`) made up for them on" in card


def test_they_do_what_their_files_say(added: tuple[Path, str]) -> None:
    from safetensors.torch import load_file

    (checkpoint,) = (path for path in (added[0] / "out/checkpoints").iterdir() if "share" in path.name)
    before = load_file(added[0] / "tiny/model.safetensors")
    after = load_file(checkpoint / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    assert after[name].equal(0.25 * before[name])
    assert after["model.layers.1.mlp.down_proj.weight"].equal(
        before["model.layers.3.mlp.down_proj.weight"]
    )
