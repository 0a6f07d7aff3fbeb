"""The embedded demo tasks: regenerable, free of duplicates, and not solvable without reading."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.tasks import catalog

FOLDER = Path(__file__).resolve().parents[2] / "suites" / "demo"
GENERATED = ("profiles", "sums")  # the answers are generated
TASKS = ("facts", "grammar", "lastword", "retrieval", "causes", *GENERATED)
WITH_CHOICES = ("facts", "grammar", "retrieval", "causes")
SHARED_WORDS = 8  # that many words in a row count as taken from another text


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """``generate.py`` as a module."""
    spec = importlib.util.spec_from_file_location("demo_generate", FOLDER / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        spec.loader.exec_module(module)
    return module


def items_of(task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{task}.jsonl").read_text("utf-8").splitlines()]


def word_runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[\w']+", text.lower())
    return {tuple(words[i : i + SHARED_WORDS]) for i in range(len(words) - SHARED_WORDS + 1)}


def run_generator(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "generate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_committed_items_are_what_the_generator_writes() -> None:
    done = run_generator(FOLDER, "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_check_names_a_changed_file(tmp_path: Path) -> None:
    for source in FOLDER.rglob("*"):
        if source.suffix in {".py", ".jsonl"}:
            target = tmp_path / source.relative_to(FOLDER)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(source.read_bytes())
    with (tmp_path / "causes.jsonl").open("a") as file:
        file.write("{}\n")
    done = run_generator(tmp_path, "--check")
    assert done.returncode == 1
    assert done.stderr.startswith("causes.jsonl: ") and done.stderr.count("\n") == 1
    assert run_generator(tmp_path).returncode == 0
    assert run_generator(tmp_path, "--check").returncode == 0


@pytest.mark.parametrize("task", TASKS)
def test_task_is_found_by_its_name(task: str) -> None:
    source = catalog.find_task(f"demo_{task}", [FOLDER])
    assert source.yaml == FOLDER / f"{task}.yaml"
    assert source.fingerprint.startswith("sha256:")


@pytest.mark.parametrize("task", TASKS)
def test_number_of_items_and_duplicates(task: str, generator: ModuleType) -> None:
    items = items_of(task)
    fewest, most = (100, 150) if task in GENERATED else (400, 600)
    assert fewest <= len(items) <= most
    assert generator.duplicates(items) == 0


@pytest.mark.parametrize("task", ["lastword", "retrieval"])
def test_items_differ_in_more_than_a_word(task: str, generator: ModuleType) -> None:
    texts = [generator.whole_text(item).split() for item in items_of(task)]
    near = sum(
        len(one) == len(other) and sum(a != b for a, b in zip(one, other, strict=True)) < 2
        for one, other in combinations(texts, 2)
    )
    assert near == 0


def test_all_tasks_together_stay_within_the_time_of_the_demo() -> None:
    requests = sum(len(item.get("choices", "_")) for task in TASKS for item in items_of(task))
    assert requests <= 4800


@pytest.mark.parametrize("task", WITH_CHOICES)
def test_rules_that_do_not_read_are_at_chance(task: str, generator: ModuleType) -> None:
    items = items_of(task)
    found = generator.baselines(items)
    chance = 1 / len(items[0].get("choices") or items[0]["values"])
    for rule, accuracy in found.items():
        if rule.startswith("position"):
            assert accuracy == pytest.approx(chance, abs=0.005), rule
        else:  # 3 points above chance; "usual answer" of facts lies far below it, see the README
            assert accuracy <= chance + 0.03, rule
    for rule in ("longest", "shortest"):
        assert found[rule] >= chance - 0.03, rule


def test_no_last_word_is_frequent() -> None:
    targets = [item["target"] for item in items_of("lastword")]
    assert max(map(targets.count, set(targets))) <= 0.02 * len(targets)


@pytest.mark.parametrize("task", ["lastword", "retrieval"])
def test_answer_occurs_in_the_prompt(task: str) -> None:
    items = items_of(task)
    assert sum(item["target"].strip() in item["prompt"] for item in items) >= 0.99 * len(items)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_comes_from_the_calibration_text(task: str, generator: ModuleType, prose: str) -> None:
    calibration = word_runs(prose)
    taken = [item for item in items_of(task) if word_runs(generator.whole_text(item)) & calibration]
    assert taken == []
