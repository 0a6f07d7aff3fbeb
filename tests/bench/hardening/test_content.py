"""Texts that a terminal or a browser would act on, and numbers that nothing can hold."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.console import report_progress
from bench.store import Store
from tests.bench import cells
from tests.bench.fuzzing import control_characters, ends_well
from tests.bench.test_fuzz_files import edit_bytes

WriteSuite = Callable[..., Path]
ESCAPES = "\x1b[2J\x1b]0;title\x07\x1b]8;;http://x\x1b\\link\r\x9b31m"
HOSTILE = f"<img src=x onerror=alert(1)>\\input{{x}}|=1+1 [a](javascript:b){ESCAPES}\u202e"


# ---- markup in names and messages


def hostile_folder(folder: Path) -> Path:
    """Results whose every text is hostile."""
    store = Store(folder)
    for number, layers in enumerate((0, 4, 4)):
        record = cells.cell(f"{number}{HOSTILE}", layers, {HOSTILE: 0.5, "x": 0.1}, model=HOSTILE)
        assert record.prune is not None
        record.prune.warning = HOSTILE
        store.write(f"cell-{number}", record)
    for stage in ("prune", f"score:{HOSTILE}"):
        store.write(f"failed-{stage[:5]}", cells.failed(stage[:5], 4, HOSTILE, stage, model=HOSTILE))
    return folder


@pytest.mark.parametrize("kind", ["table", "markdown", "csv", "latex", "json"])
@pytest.mark.parametrize("verb", ["report", "compare", "pick", "card"])
def test_terminal_escapes_in_records(tmp_path: Path, kind: str, verb: str) -> None:
    folder = hostile_folder(tmp_path)
    commands: dict[str, tuple[Any, ...]] = {
        "report": ("report", folder, "--format", kind),
        "compare": ("compare", folder, folder, *(["--json"] if kind == "json" else [])),
        "pick": ("pick", folder, *(["--json"] if kind == "json" else [])),
        "card": ("card", folder / "records" / "cell-1.json"),
    }
    result = ends_well(*commands[verb], codes={0, 1, 2})
    assert not control_characters(result.output)
    assert "\u202e" not in result.output


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_html_in_records(tmp_path: Path) -> None:
    page = ends_well("report", hostile_folder(tmp_path), "--format", "html", codes={0}).stdout
    parser = Tags()
    parser.feed(page)
    tags = [tag for tag, _ in parser.found]
    assert "img" not in tags and "iframe" not in tags
    assert not [
        attributes for _, attributes in parser.found if any(key.startswith("on") for key in attributes)
    ]
    links = [
        value or ""
        for _, attributes in parser.found
        for key, value in attributes.items()
        if key == "href"
    ]
    assert not [link for link in links if link.lower().startswith(("javascript:", "data:text"))]


@pytest.mark.parametrize(
    "verb", ["plan", "report", "compare", "pick", "history", "card", "apply", "plot", "prune"]
)
def test_terminal_escapes_in_arguments_and_error_messages(tmp_path: Path, verb: str) -> None:
    name = tmp_path / "\x1b[31mred\x1b]0;t\x07"
    rest = {
        "compare": [name],
        "plot": ["--out", name],
        "card": ["--results", name],
        "apply": [name, "--out", name],
        "prune": ["--layers", "1", "--out", name],
    }
    result = ends_well(verb, name, *rest.get(verb, []), codes={2})
    assert "red" in result.stderr
    assert not control_characters(result.output)


def test_terminal_escapes_in_labels_of_a_plan(write_suite: WriteSuite) -> None:
    solvers = [{"name": "uidl", "as": f"x{ESCAPES}"}]
    result = ends_well("plan", write_suite(prune={"layers": [2], "solvers": solvers}), codes={0})
    assert "2/x␛" in result.stdout
    assert not control_characters(result.output)


def test_terminal_escapes_in_progress() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream in (io.StringIO(), Screen()):
        with report_progress(stream, 3) as reporter:
            reporter.step("[/]")
            reporter.say(f"[red]said[/red] {ESCAPES}\nnext line")
            reporter.next_step(f"[red]step[/red] {ESCAPES}")
        shown = stream.getvalue()
        assert "[red]step[/red]" in shown
        assert "[red]said[/red]" in shown
        assert "\x1b[2J" not in shown and "\x1b]" not in shown and "\x07" not in shown
        assert "\nnext line" in shown


# ---- numbers


@pytest.mark.parametrize("number", ["1" + "0" * 30, "1" + "0" * 4400, "-" + "9" * 20])
def test_number_too_large_for_any_record(tmp_path: Path, number: str) -> None:
    store = Store(tmp_path)
    record = cells.cell("lstsq", 4, {"x": 0.5})
    store.write("a", record)
    store.write("b", cells.cell("baseline", 0, {"x": 0.5}))
    assert record.prune is not None
    text, known = store.path("a").read_text(), f'"parameters": {record.prune.parameters}'
    assert known in text
    store.path("a").write_text(text.replace(known, f'"parameters": {number}'))
    assert str(store.path("a")) in ends_well("report", tmp_path, codes={2}).stderr
    store.path("a").write_text(text)
    samples = f'{{"task": "x", "samples": {{"doc_id": [0], "acc": [{number}]}}}}'
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "a.jsonl.gz").write_bytes(gzip.compress(samples.encode()))
    assert "a.jsonl.gz" in ends_well("compare", tmp_path, tmp_path, codes={2}).stderr


def test_edit_with_weights_that_are_not_numbers(tmp_path: Path, tiny: Path) -> None:
    import torch

    edit_bytes(tmp_path, {(2, "mlp.down_proj.weight"): torch.full((64, 96), float("nan"))})
    result = ends_well(
        "apply", tmp_path / "edit.safetensors", tiny, "--out", tmp_path / "out", codes={2}
    )
    assert "holds weights that are not numbers" in result.stderr
    assert not (tmp_path / "out").exists()
