"""Where results are found: folders, record files, git revisions."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.results import at_revision, key_of, latest, open_results
from replaceme.errors import InputError

CELLS = ("baseline", "6/lstsq")


def test_folder_holds_its_records_and_scores(demo: Callable[..., Any]) -> None:
    copy = demo("a", *CELLS)
    found = open_results(str(copy.folder))
    assert sorted(key[1:] for key in found.cells) == [(0, "baseline"), (6, "lstsq")]
    assert not found.single
    stem = found.cells["SmolLM2-135M-Instruct", 6, "lstsq"]
    assert found.samples(stem)["demo_facts"]["acc_norm"] == copy.scores("6/lstsq", "demo_facts")


def test_record_file_is_one_cell_with_its_scores(demo: Callable[..., Any]) -> None:
    copy = demo("a", *CELLS)
    found = open_results(str(copy.file("6/lstsq")))
    assert found.single
    assert [key[1:] for key in found.cells] == [(6, "lstsq")]
    assert found.samples(copy.stem("6/lstsq"))["demo_facts"]


def test_revision_is_read_without_touching_the_work_tree(
    demo: Callable[..., Any], commit: Callable[[str], str], tmp_path: Path, monkeypatch: Any
) -> None:
    copy = demo("results", *CELLS)
    old, right = copy.record("6/lstsq"), sum(copy.scores("6/lstsq", "demo_facts"))
    first = commit("first")
    copy.flip("6/lstsq", "demo_facts", losses=30)
    copy.remove("baseline")
    commit("second")
    (tmp_path / "results" / "uncommitted").write_text("kept")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    monkeypatch.chdir(tmp_path)
    for name in (f"{first}:results", "HEAD~1:results/", "HEAD~1:./results"):
        found = open_results(name)
        assert len(found.records) == 2
        assert found.records[copy.stem("6/lstsq")] == old
        assert sum(found.samples(copy.stem("6/lstsq"))["demo_facts"]["acc_norm"]) == right
    assert len(open_results("HEAD:results").records) == 1
    assert before == {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}


def test_record_file_at_a_revision(
    demo: Callable[..., Any], commit: Callable[[str], str], tmp_path: Path, monkeypatch: Any
) -> None:
    copy = demo("results", *CELLS)
    commit("first")
    monkeypatch.chdir(tmp_path)
    found = open_results(f"HEAD:{copy.file('6/lstsq').relative_to(tmp_path)}")
    assert found.single
    assert list(found.records) == [copy.stem("6/lstsq")]
    assert found.samples(copy.stem("6/lstsq"))["demo_facts"]


def test_links_in_a_revision_are_not_followed(
    demo: Callable[..., Any], commit: Callable[[str], str], tmp_path: Path
) -> None:
    copy = demo("results", *CELLS)
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    path = copy.file("6/lstsq")
    path.unlink()
    path.symlink_to(secret)
    commit("a link")
    assert len(at_revision("HEAD", "results", tmp_path).records) == 1


def test_wrong_sources_are_refused_with_what_is_wrong(
    demo: Callable[..., Any], commit: Callable[[str], str], tmp_path: Path, monkeypatch: Any
) -> None:
    copy = demo("results", "baseline")
    commit("first")
    copy.file("baseline").write_text("[]")
    commit("broken")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for source, part in {
        "nowhere": "nowhere does not exist",
        "empty": "empty holds no records",
        "HEAD~7:results": "HEAD~7:results: git says:",
        "HEAD:nowhere": "HEAD:nowhere: git says:",
        "--output=x:results": "git says",
        "HEAD:empty": "HEAD:empty",
        "HEAD:results": "HEAD:results/records/",
        "HEAD:results/records/x.json": "HEAD:results/records/x.json is not a record",
        "results": "is not a record; remove it",
    }.items():
        with pytest.raises(InputError) as error:
            open_results(source)
        assert part in str(error.value)
        assert "/replaceme-" not in str(error.value)  # a temporary folder


def test_outside_of_a_repository_a_revision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a git repository"):
        at_revision("HEAD", "results", tmp_path)


def test_damaged_scores_are_refused_by_name(demo: Callable[..., Any]) -> None:
    copy = demo("a", "baseline")
    path = copy.folder / "samples" / f"{copy.stem('baseline')}.jsonl.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"baseline-.*is not a file of scores; remove it"):
        open_results(str(copy.folder)).samples(copy.stem("baseline"))


def test_latest_of_several_records_of_a_cell_counts(demo: Callable[..., Any]) -> None:
    copy = demo("a", *CELLS)
    newer = copy.record("6/lstsq").model_copy(update={"updated": "2999-01-01T00:00:00+00:00"})
    copy.store.write("newer", newer)
    found = open_results(str(copy.folder))
    assert len(found.records) == 3
    assert found.cells[key_of(newer)] == "newer"
    assert latest(found.records.values())[key_of(newer)] == newer


def test_a_shallow_clone_says_what_git_says(
    demo: Callable[..., Any], commit: Callable[[str], str], tmp_path: Path
) -> None:
    demo("results", "baseline")
    commit("first")
    commit("second")
    clone = tmp_path.parent / f"{tmp_path.name}-clone"
    source = f"file://{tmp_path}"
    subprocess.run(["git", "clone", "-q", "--depth", "1", source, str(clone)], check=True)
    with pytest.raises(InputError, match="HEAD~1:results: git says"):
        at_revision("HEAD~1", "results", clone)
