"""The rules of the house: walls between packages, quick start-up, style, types."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("replaceme", "bench")
LIGHT = [
    "cli",
    "suite.suite",
    "suite.matrix",
    "records",
    "run.resume",
    "run.host.lock",
    "run.host.leftovers",
    "run.space",
    "run.checkpoints",
    "leaderboard.leaderboard",
    "leaderboard.table",
    "leaderboard.view",
    "leaderboard.published",
    "render",
    "plots",
    "page",
    "results",
    "compare.significance",
    "compare.compare",
    "compare.over_commits",
    "compare.pick",
    "compare.certainty",
    "suite.files",
    "suite.prune_spec",
    "suite.layer_counts",
    "suite.variables",
    "suite.schema",
    "suite.scoring",
    "card.card",
    "verbs.run",
    "verbs.verify",
    "verbs.evaluate",
]
WALLS = [
    ("suite", "run"),
    ("suite", "scoring"),
    ("scoring", "suite"),
    ("scoring", "run"),
    ("writing", "suite"),
    ("writing", "run"),
    ("tasks", "suite"),
    ("tasks", "scoring"),
    ("tasks", "run"),
    ("run", "verbs"),
    ("leaderboard", "run"),
    ("leaderboard", "suite"),
    ("compare", "run"),
    ("compare", "suite"),
    ("render", "run"),
    ("page", "run"),
    ("plots", "run"),
]
HEAVY = ["torch", "transformers", "lm_eval", "vllm", "datasets"]
VERBS = [
    "--help",
    "run --help",
    "plan suites/demo.yaml",
    "plan suites/llama.yaml",
    "list solvers",
    "list suites",
    "schema suite",
    "card SmolLM2-135M-Instruct/6/refit --results results/demo",
    "compare results/demo results/demo",
    "pick results/demo",
]


def imports(file: Path) -> set[str]:
    """Modules that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def importers(package: str) -> set[str]:
    """Files of the project that import ``package``, relative to the root."""
    files = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    assert len(files) > 30
    return {
        str(file.relative_to(ROOT))
        for file in files
        if any(name.split(".")[0] == package for name in imports(file))
    }


def module_name(file: Path) -> str:
    """Of a file of the project, as it is imported."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph(package: str) -> dict[str, set[str]]:
    """Module → modules of the same package that it imports, anywhere in its code, for types too."""
    files = {module_name(file): file for file in (ROOT / package).rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        imported = set()
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= (names & files.keys()) or {node.module}
        graph[module] = imported & files.keys() - {module}
    return graph


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other around, the first also last; empty: there are none."""
    done: set[str] = set()

    def follow(path: list[str]) -> list[str]:
        if path[-1] in path[:-1]:
            return path[path.index(path[-1]) :]
        if path[-1] in done:
            return []
        circles = (follow([*path, module]) for module in sorted(graph[path[-1]]))
        circle = next((circle for circle in circles if circle), [])
        done.add(path[-1])
        return circle

    return next((circle for module in graph if (circle := follow([module]))), [])


def test_the_pruner_knows_nothing_of_the_harness() -> None:
    assert not [file for file in importers("bench") if file.startswith("replaceme/")]


def test_only_scoring_imports_lm_eval() -> None:
    assert all(file.startswith("bench/scoring/") for file in importers("lm_eval"))


def test_only_processes_of_their_own_import_vllm() -> None:
    serving = {f"bench/serving/{name}.py" for name in ("worker", "probe", "swap")}
    writing = {"bench/scoring/generation/engine.py", "bench/writing/worker.py"}
    assert importers("vllm") == {*writing, *serving}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_around(package: str) -> None:
    assert find_circle(import_graph(package)) == []


@pytest.mark.parametrize(("package", "other"), WALLS)
def test_walls_inside_the_harness(package: str, other: str) -> None:
    graph = import_graph("bench")
    inside = {module for module in graph if module.startswith(f"bench.{package}.")}
    beyond = {f"bench.{other}", *(m for m in graph if m.startswith(f"bench.{other}."))}
    assert inside
    assert len(beyond) > 1
    assert {module: crossing for module in inside if (crossing := graph[module] & beyond)} == {}


def test_the_harness_uses_what_the_pruner_offers_and_nothing_else() -> None:
    from replaceme import PUBLIC_MODULES

    files = {module_name(file) for file in (ROOT / "replaceme").rglob("*.py")}
    assert PUBLIC_MODULES.keys() <= files
    private = {
        f"{file.relative_to(ROOT)}: {node.module}.{alias.name}"
        for file in (ROOT / "bench").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "replaceme"
        for alias in node.names
        if not is_public(str(node.module), alias.name, files)
    }
    assert private == set()


def is_public(module: str, name: str, files: set[str]) -> bool:
    """Whether a name of a module of the pruner, or a module by that name, is offered."""
    import replaceme

    if f"{module}.{name}" in files:
        return f"{module}.{name}" in replaceme.PUBLIC_MODULES
    offered = replaceme.__all__ if module == "replaceme" else []
    return name in offered or (module in replaceme.PUBLIC_MODULES and not name.startswith("_"))


def test_nothing_reads_pickles() -> None:
    assert not importers("pickle")
    for name in PACKAGES:
        for file in (ROOT / name).rglob("*.py"):
            assert "torch.load" not in file.read_text("utf-8")


def loads_nothing_heavy(program: str) -> None:
    check = f"\nimport sys\nassert not set({HEAVY}) & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program + check], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_neither_torch_nor_transformers(module: str) -> None:
    loads_nothing_heavy(f"import bench.{module}")


@pytest.mark.parametrize("verb", VERBS)
def test_quick_verbs_import_nothing_heavy(verb: str) -> None:
    loads_nothing_heavy(f"from bench.cli import main\nmain({verb.split()}, standalone_mode=False)")


@pytest.mark.slow  # as make lint and make types
@pytest.mark.parametrize("check", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]])
def test_code_passes(check: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
