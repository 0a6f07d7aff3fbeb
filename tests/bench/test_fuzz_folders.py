"""Result folders with anything in them, and hostile revisions: told in a sentence, never a hang."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from bench.store import Store
from tests.bench import cells
from tests.bench.fuzzing import ends_well, fuzz, in_time

pytestmark = pytest.mark.slow

NAMES = [
    "a b",
    "new\nline",
    "-x",
    "--upload-pack=touch pwned",
    "ünïcode",
    "\x1b[31m",
    "..x",
    ".hidden",
    "*",
    "$(id)",
    "CON",
    "x" * 240,
    "<script>",
    "a;b",
    "'",
    '"',
    "\\",
    "%s",
    "\udcff",
    "records",
    "samples",
]
SUFFIXES = [".json", "", ".jsonl.gz", ".json.json", ".JSON", ".part"]
KINDS = ["text", "folder", "link", "loop", "dangling", "pipe", "unreadable", "empty", "device"]
PLACES = ["", "records", "samples", "logs"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result folder of two cells with scores; not to be changed."""
    folder = tmp_path_factory.mktemp("model")
    store = Store(folder)
    for label, layers in (("baseline", 0), ("lstsq", 4)):
        store.write(label, cells.cell(label, layers, {"facts": 0.5}))
        store.write_samples(label, {"facts": {"doc_id": [0, 1, 2, 3], "acc": [0.0, 1.0, 1.0, 0.0]}})
    return folder


def make(path: Path, kind: str) -> None:
    """Put something at a path, in place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in {"link", "loop", "dangling", "device"}:
        path.symlink_to(
            {"link": "/etc/passwd", "device": "/dev/zero", "loop": path}.get(kind, "/no/such")
        )
    else:
        path.write_text("" if kind == "empty" else "{}")
        if kind == "unreadable":
            path.chmod(0)


@st.composite
def changes(draw: Any) -> list[tuple[str, str]]:
    """Paths in the folder with what is put there."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            known = ["records", "samples", "records/lstsq.json", "samples/lstsq.jsonl.gz"]
            path = draw(st.sampled_from([*known, "records/baseline.json"]))
        else:
            name = draw(st.sampled_from(NAMES)) + draw(st.sampled_from(SUFFIXES))
            path = str(Path(draw(st.sampled_from(PLACES))) / name)
        found.append((path, draw(st.sampled_from(KINDS))))
    return found


@fuzz(120, found=changes(), verb=st.integers(0, 6))
def test_folder_with_anything_in_it_is_read_or_refused(
    model: Path, tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, str]], verb: int
) -> None:
    folder = tmp_path_factory.mktemp("f") / "results"
    shutil.copytree(model, folder)
    for path, kind in found:
        try:
            make(folder / path, kind)
        except OSError:
            continue
    commands = [
        ("report", folder),
        ("report", folder, "--format", "markdown"),
        ("report", folder / "records" / "lstsq.json"),
        ("compare", model, folder, "--allow-missing"),
        ("pick", folder),
        ("card", "m/4/lstsq", "--results", folder),
        ("card", folder / "records" / "lstsq.json"),
    ]
    result = ends_well(*commands[verb], codes={0, 1, 2})
    assert "root:" not in result.output  # what /etc/passwd holds


SOURCES = [
    "--upload-pack=touch pwned:results",
    "-x:results",
    "--output=pwned:results",
    "HEAD:../..",
    ":/",
    ":",
    "HEAD:",
    "HEAD:/etc",
    "HEAD:results/../../..",
    ":(exclude)x",
    "HEAD:./results",
    "HEAD^{/x}:results",
    "@{-1}:results",
    "HEAD:results\n",
    "HEAD\n--output=pwned:results",
    "--:results",
    "--end-of-options:results",
    "HEAD:--output=pwned",
    "HEAD@{1 year ago}:results",
    "x..y:results",
    "^HEAD:results",
    "HEAD:results/records/lstsq.json",
    "\0:x",
    "ext::sh -c id",
    "HEAD:records/../../x.json",
    "HEAD:results/records/x.json",
    "stash:results",
    "-:-",
    "a:b:c",
    "http://x/y",
    "HEAD:" + "x" * 5000,
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@fuzz(
    80,
    source=st.sampled_from(SOURCES) | TEXTS | st.builds("{}:{}".format, TEXTS, TEXTS),
    verb=st.integers(0, 3),
)
def test_revision_of_any_text_runs_nothing_and_is_read_or_refused(
    repository: Path, source: str, verb: int
) -> None:
    before = sorted(repository.rglob("*"))
    commands = [
        ("report", "--", source),
        ("compare", "--", source, repository / "results"),
        ("pick", "--", source),
        ("card", "--results", source, "--", "m/4/lstsq"),
    ]
    ends_well(*commands[verb], codes={0, 1, 2})
    assert sorted(repository.rglob("*")) == before


@pytest.fixture(scope="module")
def repository(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The current folder: a repository with the results in its only commit."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(model, folder / "results")
    options = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run(["git", *options, *words], cwd=folder, check=True)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def test_thousands_of_records_are_shown(tmp_path: Path) -> None:
    record = cells.cell("lstsq", 4, {"facts": 0.5})
    for number in range(2000):
        path = Store(tmp_path).path(f"cell-{number}")
        path.parent.mkdir(exist_ok=True)
        path.write_text(record.model_copy(update={"label": f"v{number}"}).model_dump_json())
    result = ends_well("report", tmp_path, "--format", "csv", codes={0})
    assert len(result.stdout.splitlines()) > 2000


def test_pipe_in_place_of_a_record_or_of_scores_is_not_waited_for(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(model, folder)
    make(folder / "samples" / "lstsq.jsonl.gz", "pipe")
    with in_time(10):
        ends_well("compare", model, folder, codes={0, 1, 2})
        make(folder / "records" / "lstsq.json", "pipe")
        assert "not a record" in ends_well("report", folder, codes={2}).stderr


BOMB = """
import gzip, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from bench.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "content", [b'{"task": "facts", "samples": {"acc": [' + b"0," * 1000, b"\n", b"[", b" "]
)
def test_gzip_bomb_of_scores_takes_no_memory(model: Path, tmp_path: Path, content: bytes) -> None:
    import gzip

    folder = tmp_path / "results"
    shutil.copytree(model, folder)
    part = gzip.compress(content * (8_000_000 // len(content)), 9)
    bomb = folder / "samples" / "lstsq.jsonl.gz"
    bomb.write_bytes(part * 400)  # members one after the other: 3.2 GB
    assert bomb.stat().st_size < 20_000_000
    words = [sys.executable, "-c", BOMB, "compare", str(model), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.startswith("Error: ")
    assert str(bomb) in done.stderr
