"""What verbs share: options with one definition, and a file that holds what is else printed."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def test_no_option_is_defined_twice() -> None:
    places: dict[str, list[str]] = {}
    for path in (ROOT / "bench" / "verbs").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "click.option":
                places.setdefault(ast.unparse(node), []).append(path.name)
    assert len(places) > 30
    assert not {option: files for option, files in places.items() if len(files) > 1}


@pytest.mark.parametrize("kind", ["table", "markdown", "json"])
def test_file_holds_what_is_else_printed(
    pair: tuple[Any, Any], call_here: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    command, file = ["compare", pair[0].folder, pair[1].folder, "--format", kind], tmp_path / "out"
    printed = call_here(*command)
    written = call_here(*command, "-o", file)
    assert (written.returncode, written.stdout) == (0, "")
    assert file.read_text("utf-8") == printed.stdout
    refused = call_here(*command, "-o", tmp_path)
    assert refused.returncode == 2
    assert str(tmp_path) in refused.stderr
