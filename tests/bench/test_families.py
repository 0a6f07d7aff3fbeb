"""Solvers that do not work on a family are refused before anything starts."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]
WriteSuite = Callable[..., Path]
Refused = Callable[..., None]
GEMMA = (
    "uidl, refit, reconstruct, and lstsq or relative with diagonal: true, or cosine with shape: diagonal"
)


@pytest.fixture(scope="module")
def families(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a Mixtral (``moe``) and a Gemma 2 (``gemma``) of four layers; not to be changed."""
    folder = tmp_path_factory.mktemp("families")
    save_model(folder / "moe", "mixtral", num_local_experts=4, num_hidden_layers=4)
    save_model(folder / "gemma", "gemma2", num_hidden_layers=4)
    return folder


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize("solver", ["lstsq", "relative", {"name": "cosine", "as": "angle"}], ids=str)
def test_suite_with_a_solver_that_does_not_work_starts_nothing(
    refused: Refused,
    call: Call,
    write_suite: WriteSuite,
    families: Path,
    tmp_path: Path,
    verb: str,
    solver: Any,
) -> None:
    suite = write_suite(models=[str(families / "gemma")], prune={"layers": [1], "solvers": [solver]})
    refused(call(verb, suite, "--out", tmp_path / "out"), "gemma': solver", GEMMA)
    assert not (tmp_path / "out").exists()


def test_prune_with_a_solver_that_does_not_work_starts_nothing(
    refused: Refused, call: Call, families: Path, tmp_path: Path
) -> None:
    arguments = ["--layers", 1, "--solver", "relative", "--out", tmp_path / "out"]
    refused(call("prune", families / "gemma", *arguments), "gemma': solver", GEMMA)
    assert not (tmp_path / "out").exists()


def test_solvers_that_do_work_are_planned(
    call: Call, write_suite: WriteSuite, families: Path, tmp_path: Path
) -> None:
    for family, solvers in {
        "moe": ["uidl", "lstsq", "cosine", "relative", "refit", "reconstruct"],
        "gemma": [
            "uidl",
            "refit",
            "reconstruct",
            {"name": "lstsq", "diagonal": True},
            {"name": "cosine", "shape": "diagonal"},
        ],
    }.items():
        suite = write_suite(models=[str(families / family)], prune={"layers": [1], "solvers": solvers})
        result = call("plan", suite, "--out", tmp_path)
        assert result.returncode == 0, result.stderr
        assert f"{len(solvers) + 1} cells, 0 done" in result.stdout


def test_hub_model_fails_only_the_cells_of_the_solver_that_does_not_work(
    call: Call, write_suite: WriteSuite, families: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "home" / "hub" / "models--acme--gemma"
    shutil.copytree(families / "gemma", repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    suite = write_suite(models=["acme/gemma"], prune={"layers": [1], "solvers": ["uidl", "lstsq"]})
    result = call("run", suite, "--out", tmp_path / "out", env={"HF_HOME": str(tmp_path / "home")})
    assert result.returncode == 3
    assert (
        "✗ lstsq at 1: prune: model 'acme/gemma': solver 'lstsq': in Gemma 2 the norm" in result.stdout
    )
    assert "1 of 3 cells failed" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
