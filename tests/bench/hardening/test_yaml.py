"""Suites and tasks whose YAML is an attack."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.tasks.catalog import find_task
from replaceme.errors import InputError
from tests.bench.fuzzing import ends_well, in_time

pytestmark = pytest.mark.slow

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
BOMBS = {
    "laughs": LAUGHS,
    "merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: *a{i - 1}}}\n" for i in range(1, 60)),
    "itself": "a: &a [*a]\n",
    "deep": "a: " + "[" * 20_000,
    "keys": "? " * 5000 + "a\n",
    "digits": f"a: {'9' * 200_000}\n",
    "base60": f"a: {'1:' * 50_000}1\n",
    "large": "a: " + "x" * 300_000,
    "many": "a: [" + "1," * 20_000 + "]\n",
}
COMMANDS = {
    "suite": lambda path: ("plan", path, "--out", path.with_name("out")),
    "settings": lambda path: ("prune", "--config", path, "--out", path.with_name("out")),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("command", COMMANDS)
def test_yaml_bomb(tmp_path: Path, bomb: str, command: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[bomb])
    with in_time(5):
        assert str(path) in ends_well(*COMMANDS[command](path), codes={2}).stderr


@pytest.mark.parametrize("bomb", BOMBS)
def test_yaml_bomb_among_the_tasks(tmp_path: Path, bomb: str) -> None:
    (tmp_path / "bomb.yaml").write_text(f"task: bomb\n{BOMBS[bomb]}")
    with in_time(30):
        try:
            find_task("bomb", [tmp_path])
        except InputError as error:
            assert str(tmp_path / "bomb.yaml") in str(error)


TAGS = [
    "!!python/object/apply:os.system ['{}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!function os.system",
    "!!python/object/new:os.system ['{}']",
    "!!python/object/apply:subprocess.check_output [[sh, -c, '{}']]",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_yaml_tag_that_makes_objects(tmp_path: Path, tag: str, command: str) -> None:
    path, marker = tmp_path / "suite.yaml", tmp_path / "marker"
    path.write_text("name: " + tag.format(f"touch {marker}") + "\n")
    assert "tag" in ends_well(*COMMANDS[command](path), codes={2}).stderr
    assert not marker.exists()
