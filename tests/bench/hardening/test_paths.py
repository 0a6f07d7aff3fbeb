"""Names, links and paths that lead elsewhere, or nowhere."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bench.store import Store
from bench.suite.matrix import file_name
from replaceme.errors import OutputError
from replaceme.io.editfile import load_edit
from replaceme.io.files import write_atomically
from tests.bench.fuzzing import control_characters, ends_well
from tests.bench.test_fuzz_files import edit_bytes

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]
WriteSuite = Callable[..., Path]
Refused = Callable[..., None]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- paths


@pytest.mark.parametrize("name", ["../x", "/abs", "a/b", "a\0b", "x\n", "..", "", ".", "-x", "x" * 101])
def test_path_traversal_in_the_name_of_a_suite(
    call_here: Call, refused: Refused, write_suite: WriteSuite, name: str
) -> None:
    refused(call_here("plan", write_suite(name=name)), "suite.yaml", ": name: ")


@pytest.mark.parametrize(
    "text",
    [
        "../../x",
        "/etc/passwd",
        "a\0b\nc",
        "x" * 5000,
        "模" * 300,
        "CON",
        "..",
        "",
        "\x1b[31m",
        "a\\b:c*?",
    ],
)
def test_any_text_is_a_safe_part_of_a_file_name(text: str) -> None:
    name = f"{file_name(text)}-0123abcd"
    assert Path(name).name == name
    assert name.isprintable()
    assert len(f".{name}.jsonl.gz-12345678".encode()) < 255
    assert not set(name) & set('/\\:*?"<>|')


def test_path_traversal_by_models_labels_and_tasks(
    call_here: Call, write_suite: WriteSuite, tiny: Path, task_folder: Path, tmp_path: Path
) -> None:
    """Nothing is written outside of the result folder, and no two cells share a file."""
    folder, out = tmp_path / ("m" * 250), tmp_path / "a" / "b" / "out"
    folder.symlink_to(tiny)
    own = tmp_path / "tasks"
    own.mkdir()
    shutil.copy(task_folder / "colours.jsonl", own)
    settings = yaml.safe_load((task_folder / "colours.yaml").read_text()) | {"task": "../../../evil\n"}
    (own / "evil.yaml").write_text(yaml.safe_dump(settings))
    labels = ["../../../evil", "/evil", "evil\0", "a", "A", "CON", "x" * 300]
    solvers = [{"name": "lstsq", "ridge": 0.1 * (i + 1), "as": label} for i, label in enumerate(labels)]
    suite = write_suite(
        models=[str(folder)],
        prune={"layers": [2], "solvers": solvers},
        score={"tasks": ["../../../evil\n"], "include_path": str(own), "batch_tokens": 512},
    )
    before = files_below(tmp_path)
    result = call_here("run", suite, "--out", out)
    assert result.returncode == 0, result.stderr
    assert not control_characters(result.stdout + result.stderr)
    after = files_below(tmp_path)
    assert {name for name in after.keys() - before.keys() if not name.startswith("a/b/out/")} == set()
    assert {name: after[name] for name in before} == before
    found = Store(out).all()
    assert sorted(record.label for record in found.values()) == sorted(["baseline", *labels])
    assert len({stem.lower() for stem in found}) == len(labels) + 1
    ends_well("report", out, codes={0})
    ends_well("report", out, "--format", "html", "-o", tmp_path / "page.html", codes={0})
    ends_well("plot", out, "--out", tmp_path / "plots", codes={0})
    assert all(path.parent == tmp_path / "plots" for path in (tmp_path / "plots").rglob("*"))


# ---- links


def test_link_in_place_of_a_file_to_write_is_replaced(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "out" / "record.json"
    victim.write_text("precious")
    link.parent.mkdir()
    link.symlink_to(victim)
    write_atomically(link, b"new")
    assert victim.read_text() == "precious"
    assert not link.is_symlink()
    assert link.read_bytes() == b"new"


def test_link_in_place_of_the_file_that_an_edit_is_first_written_to(tmp_path: Path) -> None:
    victim, part = tmp_path / "victim", tmp_path / ".edit.safetensors.part"
    victim.write_text("precious")
    part.symlink_to(victim)
    edit_bytes(tmp_path)
    assert victim.read_text() == "precious"
    assert load_edit(tmp_path / "edit.safetensors")[0].blocks
    assert not part.is_symlink()


def test_links_in_a_result_folder(call_here: Call, write_suite: WriteSuite, tmp_path: Path) -> None:
    """A folder that is a link is followed; a file that is one is replaced by a file."""
    suite, out = write_suite(prune={"layers": [2], "solvers": ["lstsq"]}), tmp_path / "out"
    assert call_here("run", suite, "--out", out).returncode == 0
    elsewhere, victims = tmp_path / "elsewhere", tmp_path / "victims"
    (out / "records").rename(elsewhere)
    (out / "records").symlink_to(elsewhere)
    planted = [p for d in ("records", "samples", "edits") for p in sorted((out / d).iterdir())]
    planted += sorted(out.glob("leaderboard.*"))
    assert len(planted) >= 5 + 5
    victims.mkdir()
    for path in planted:
        content = path.read_bytes()
        if path.suffix == ".json" and path.parent.name == "records":  # so that all is done again
            content = json.dumps(json.loads(content) | {"prune": None, "quality": {}}).encode()
        (victims / path.name).write_bytes(content)
        path.unlink()
        path.symlink_to(victims / path.name)
    for path in sorted((out / "edits").iterdir()):
        part = path.with_name(f".{path.name}.part")
        (victims / part.name).write_text("precious")
        part.symlink_to(victims / part.name)
    before = files_below(victims)
    result = call_here("run", suite, "--out", out)
    assert result.returncode == 0, result.stderr
    assert files_below(victims) == before
    assert not [path for path in planted if path.is_symlink() or not path.is_file()]
    assert (out / "records").is_symlink()
    assert all(record.status == "complete" for record in Store(out).all().values())


@pytest.mark.parametrize("name", [".lock", "logs/run.log"])
def test_link_in_place_of_lock_or_log_is_refused(
    call_here: Call, refused: Refused, write_suite: WriteSuite, tmp_path: Path, name: str
) -> None:
    victim, link = tmp_path / "victim", tmp_path / "out" / name
    victim.write_text("precious")
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    refused(call_here("run", write_suite(), "--out", tmp_path / "out"), "cannot be written")
    assert victim.read_text() == "precious"


def test_link_in_place_of_a_checkpoint_does_not_cost_a_folder_of_the_user(
    call_here: Call, write_suite: WriteSuite, tmp_path: Path
) -> None:
    suite, out = write_suite(prune={"layers": [2], "solvers": ["uidl"]}), tmp_path / "out"
    assert call_here("run", suite, "--out", out).returncode == 0
    (checkpoint,) = (out / "checkpoints").iterdir()
    shutil.rmtree(out)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.txt").write_text("precious")
    (out / "checkpoints").mkdir(parents=True)
    checkpoint.symlink_to(victim)
    result = call_here("run", suite, "--out", out)
    assert result.returncode == 3
    assert (victim / "thesis.txt").read_text() == "precious"
    assert sorted(path.name for path in victim.iterdir()) == ["thesis.txt"]


# ---- names that no file can have


@pytest.mark.parametrize("verb", ["plan", "report", "pick", "history", "card"])
def test_name_longer_than_any_file(verb: str) -> None:
    result = ends_well(verb, "x" * 5000, codes={2})
    assert len(result.stderr) < 12_000


def test_output_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "x" / "record.json", b"")
