"""What the shell offers, asked for in the way that the shells do it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.suite.files import shipped
from replaceme.solvers import SOLVERS

Call = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
SHELLS = {"bash": "complete ", "zsh": "compdef ", "fish": "complete "}


@pytest.fixture
def offered(call: Call, tmp_path: Path) -> Callable[..., list[str]]:
    """What bash is offered for the last of some words."""

    def offered(*words: str) -> list[str]:
        line = " ".join(["replaceme-bench", *words])
        env = {
            "_REPLACEME_BENCH_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words)),
        }
        result = call(env=env, cwd=tmp_path)
        assert "Traceback" not in result.stderr
        return result.stdout.split()

    return offered


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_its_script(call: Call, shell: str) -> None:
    result = call(env={"_REPLACEME_BENCH_COMPLETE": f"{shell}_source"})
    assert result.returncode == 0
    assert SHELLS[shell] in result.stdout
    assert "replaceme-bench" in result.stdout


def test_zsh_and_fish_are_offered_verbs_with_their_help(call: Call) -> None:
    zsh = call(
        env={
            "_REPLACEME_BENCH_COMPLETE": "zsh_complete",
            "COMP_WORDS": "replaceme-bench ca",
            "COMP_CWORD": "1",
        }
    )
    assert zsh.stdout.split("\n")[:2] == ["plain", "card"]
    fish = call(
        env={
            "_REPLACEME_BENCH_COMPLETE": "fish_complete",
            "COMP_WORDS": "replaceme-bench ca",
            "COMP_CWORD": "ca",
        }
    )
    assert "card" in fish.stdout
    assert "model card" in fish.stdout


def test_script_works_in_bash(command: str) -> None:
    """The line of the README, and then what bash does when TAB is pressed."""
    script = f"""
        PATH={Path(command).parent}:$PATH
        eval "$(_REPLACEME_BENCH_COMPLETE=bash_source replaceme-bench)"
        complete -p replaceme-bench
        COMP_WORDS=(replaceme-bench plan q); COMP_CWORD=2
        _replaceme_bench_completion replaceme-bench; echo "${{COMPREPLY[@]}}"
    """
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "qwen", result.stderr
    assert "_replaceme_bench_completion" in result.stdout


def test_suites_are_offered_by_name_then_files(offered: Callable[..., list[str]]) -> None:
    assert offered("plan", "") == [f"plain,{name}" for name in shipped()]
    assert offered("run", "ll") == ["plain,llama"]
    assert offered("run", "suites/") == ["file,suites/"]


def test_solvers_are_offered(offered: Callable[..., list[str]]) -> None:
    assert offered("prune", "--solver", "") == [f"plain,{name}" for name in SOLVERS]
    assert offered("prune", "--solver", "l") == ["plain,lstsq"]


def test_cells_of_the_suite_are_offered(offered: Callable[..., list[str]]) -> None:
    wanted = ["plain,Llama-3.1-8B-Instruct/12/refit", "plain,Llama-3.1-8B-Instruct/12/reconstruct"]
    assert offered("verify", "llama", "--cell", "Llama-3.1-8B-Instruct/12/re") == wanted
    assert offered("run", "llama", "--only", "Llama-3.1-8B-Instruct/12/re") == wanted
    assert offered("verify", "--cell", "") == []
    assert offered("verify", "nothing.yaml", "--cell", "") == []


def test_recorded_cells_are_offered(offered: Callable[..., list[str]]) -> None:
    demo = str(ROOT / "results" / "demo")
    cell = "SmolLM2-135M-Instruct/9/lstsq"
    assert offered("card", "--results", demo, cell[:-3]) == [f"plain,{cell}"]
    assert offered("card", "") == []
    assert offered("card", "--results", "nowhere", "") == []
