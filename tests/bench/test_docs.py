"""README and docs say what is there: paths, links, options, numbers; and their commands run."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml

from bench.cli import main
from bench.verbs.evaluate import evaluate_model
from replaceme.compat import commands as published

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w/.-])(?:replaceme|bench|docs|suites|results|tests|\.github|\.ci)/[\w./*-]*")
PROGRAMS: dict[str, click.Command] = {
    "replaceme-bench": main,
    "evaluate_model": evaluate_model,
    "run_replaceme": published.run_replaceme,
    "run_uidl": published.run_uidl,
    "get_distance_analysis": published.get_distance_analysis,
}
OTHER = {"make", "git", "cd", "apt-get", "pip", "pytest", "./install.sh", "eval", ".venv/bin/python"}
OTHER |= {"ray", "sbatch"}


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(page.read_text("utf-8")) if name == language]


def commands() -> list[str]:
    """Every line of shell in README and docs, once, without comments."""
    lines = chain.from_iterable(text.splitlines() for page in PAGES for text in blocks(page, "sh"))
    bare = (re.sub(r"\s+#.*", "", line).strip() for line in lines)
    return list(dict.fromkeys(filter(None, bare)))


def words(command: str) -> list[str]:
    found = shlex.split(command)
    return [
        found[0].removeprefix(".venv/bin/") if Path(found[0]).name in PROGRAMS else found[0],
        *found[1:],
    ]


LLAMA, YOURS = "meta-llama/Llama-3.1-8B", "path/to/your-model"
Call = Callable[..., subprocess.CompletedProcess[str]]
OURS = [command for command in commands() if words(command)[0] in PROGRAMS]
FEW = "--samples 16 --max-length 32"  # of calibration: quick
BENCH = [command for command in OURS if words(command)[0] == "replaceme-bench"]


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    """The hook of mkdocs that makes parts of the pages."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- what pages name


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files(page: Path) -> None:
    targets = [link.partition("#")[0] for link in LINK.findall(FENCE.sub("", page.read_text("utf-8")))]
    own = [target for target in targets if target and "://" not in target]
    missing = [
        target
        for target in own
        if not (page.parent / target).exists() and not target.startswith("measured/")
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_paths_exist(page: Path) -> None:
    text = LINK.sub("", page.read_text("utf-8"))
    paths = {match.rstrip(".") for match in PATH.findall(text)}
    missing = [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]
    assert not missing


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [page for part in parts for page in pages(part)]

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    written = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages(navigation)) == sorted(written)


# ---- what pages say


def test_readme_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 1200


def test_readme_counts_the_decoders(generated: ModuleType) -> None:
    (count,) = re.findall(r"one of (\d+) classes", (ROOT / "README.md").read_text("utf-8"))
    known = generated.read_decoders().values()
    assert int(count) == sum(said.get("removal") is True for said in known)


def test_readme_shows_the_demo_as_it_was_measured() -> None:
    rows = json.loads((ROOT / "results/demo/leaderboard.json").read_text("utf-8"))
    measured = {(row["label"], row["layers"]): row for group in rows["groups"] for row in group["rows"]}
    _, _, behind = (ROOT / "README.md").read_text("utf-8").partition("<!-- demo table -->\n")
    lines = behind.partition("<!-- end -->")[0].splitlines()[2:]
    assert len(lines) == len(measured)
    for line in lines:
        label, cut, average, relative, loss, _, *texts = (
            cell.strip() for cell in line.strip("|").split("|")
        )
        values = measured[label.rstrip(" ★!"), int(cut)]["values"]
        error = values["average"]["stderr"]
        assert average == f"{values['average']['number']:.1f} ± {error:.1f}"
        assert relative == f"{values['rp']['number']:.1f}"
        assert loss == f"{values['loss']['number']:.3f}"
        tasks = ("task:demo_profiles", "task:demo_sums")
        assert texts == [f"{values[task]['number']:.1f}" for task in tasks]


@pytest.mark.slow
def test_families_page_has_the_table_of_what_works(generated: ModuleType) -> None:
    page = generated.fill((ROOT / "docs/families.md").read_text("utf-8"))
    for name, said in generated.read_decoders().items():
        assert f"| `{name}` | {said['class']} |" in page


def test_generated_parts_are_whole(generated: ModuleType) -> None:
    for page in PAGES:
        text = generated.fill(page.read_text("utf-8"))
        assert "<!-- generated" not in text


def test_suite_reference_has_every_key_with_its_description(generated: ModuleType) -> None:
    text = generated.suite_reference()
    for model in generated.sections(generated.Suite):
        assert f"\n## {model.__name__}\n" in "\n" + text
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
            assert row.count(" | ") == 3
            assert generated.escape(field.description) in text


def test_command_reference_has_every_option(generated: ModuleType) -> None:
    text = generated.command_reference()
    for name, command in main.commands.items():
        assert f"## {name}\n" in text
        for option in command.params:
            assert option.opts[0] in text or isinstance(option, click.Argument)


# ---- what pages tell to run


def test_commands_are_ours_or_of_known_programs() -> None:
    assert len(OURS) > 30
    assert {words(command)[0] for command in commands()} <= PROGRAMS.keys() | OTHER


@pytest.mark.parametrize("command", OURS)
def test_command_takes_its_options(command: str) -> None:
    program, *arguments = words(command)
    here = PROGRAMS[program]
    while isinstance(here, click.Group):
        here, arguments = here.commands[arguments[0]], arguments[1:]
    here.make_context(program, list(arguments))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_targets_of_make_exist(page: Path) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    text = page.read_text("utf-8")
    named = re.findall(r"`make (\w+)`|^make (\w+)", text, re.MULTILINE)
    assert {one or other for one, other in named} <= set(targets)


def test_tests_that_pages_name_exist_and_take_their_options() -> None:
    tests = [command.partition("pytest")[2].split() for command in commands() if "pytest" in command]
    files = {word for test in tests for word in test if word.startswith("tests/")}
    options = {word for test in tests for word in test if word.startswith("--")}
    assert len(files) > 4
    assert not [file for file in files if not (ROOT / file).is_file()]
    helped = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/perf", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert not [option for option in options if option not in helped.stdout]


READS = {"list", "schema", "report", "plot", "compare", "pick", "history", "card", "plan"}
BY_OURSELVES = ("mine", "--estimate")  # run below, or too long: it tokenises the demo's tasks
ON_RESULTS = [one for one in BENCH if words(one)[1] in READS and not any(w in one for w in BY_OURSELVES)]
RUNS = [one for one in BENCH if words(one)[1] == "run" and "mine.yaml" not in one]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read: suites, and results in a repository with two commits."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "suites").symlink_to(ROOT / "suites")
    for name in ("results/demo", "runs/demo"):
        shutil.copytree(ROOT / "results/demo", folder / name)
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    for message in ("one", "two"):
        (folder / message).touch()
        subprocess.run([*git, "add", "results", message], check=True)
        subprocess.run([*git, "commit", "-qm", message], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("lm_eval_names")
@pytest.mark.parametrize("command", ON_RESULTS)
def test_command_that_reads_results_or_suites_runs(
    command: str, desk: Path, call_here: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    done = call_here(*words(command)[1:])
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("lm_eval_names")
@pytest.mark.parametrize("command", RUNS)
def test_run_of_a_shipped_suite_can_be_planned(
    command: str, desk: Path, call_here: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    done = call_here("plan", *words(command)[2:])
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_commands_that_write_checkpoints_run_on_a_small_model(
    call_here: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of its eight layers in place of eight, or four, of a larger model's."""
    monkeypatch.chdir(tmp_path)
    (options,) = blocks(ROOT / "docs" / "prune.md", "yaml")
    options = options.replace("layers: 8", "layers: 2").replace(LLAMA, str(tiny))
    (tmp_path / "prune.yaml").write_text(options)
    ours = [one for one in BENCH if words(one)[1] in ("prune", "apply")]
    assert len(ours) > 4
    for command in ours:
        small = re.sub(r"--layers \d", "--layers 2", command)
        if " prune " in small:
            small = f"{small} {FEW}"
        small = small.replace(LLAMA, str(tiny)).replace(YOURS, str(tiny))
        done = call_here(*words(small)[1:], "--overwrite")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "llama-8-layers-less" / "replaceme.json").is_file()


@pytest.mark.slow
def test_newcomer_has_a_checkpoint_of_their_own_after_four_commands(
    tiny: Path, task_folder: Path, tmp_path: Path
) -> None:
    """Those of the README, and what follows them; setting up is left to ``.ci/run``."""
    section = (ROOT / "README.md").read_text("utf-8").split("\n## Five minutes")[1].split("\n## ")[0]
    texts = FENCE.findall(section)
    first, second = (text for language, text in texts if language == "sh")
    assert len(first.splitlines()) == 4
    suite = next(text for language, text in texts if language == "yaml")
    load = next(text for language, text in texts if language == "python")
    suite = suite.replace("[piqa, arc_easy]", "[colours, endings]").replace(YOURS, str(tiny))
    (tmp_path / "mine.yaml").write_text(
        f"{suite}  include_path: {task_folder}\ncalibration: {{samples: 16, max_length: 32}}\n"
    )
    (tmp_path / "load.py").write_text(load)
    script = first.replace("URL", str(ROOT)).replace("make setup", f"ln -s {sys.prefix} .venv")
    script = script.replace("--out pruned", f"--out pruned {FEW}")
    script += f"export PYTHONPATH=$PWD\ncp {tmp_path}/mine.yaml .\n.venv/bin/python {tmp_path}/load.py\n"
    run, pick = second.splitlines()
    script += f"{run}\n{pick} || test $? = 1\n"
    ran = subprocess.run(
        ["bash", "-ec", script.replace(YOURS, str(tiny))], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(list((tmp_path / "replaceme/runs/mine/records").glob("*.json"))) == 7
