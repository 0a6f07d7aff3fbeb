"""A metric over the commits of a results folder."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.compare import over_commits
from bench.leaderboard import leaderboard
from bench.plots.history_chart import chart
from bench.render import history_table
from replaceme.errors import InputError
from tests.bench import cells

pytestmark = pytest.mark.slow

FACTS = "demo_facts"
LSTSQ = ("SmolLM2-135M-Instruct", 6, "lstsq")


@pytest.fixture
def repository(demo: Callable[..., Any], commit: Callable[[str], str], tmp_path: Path) -> Path:
    """Five commits: good; another file; worse with a new cell; broken; of an older schema."""
    copy = demo("results", "baseline", "6/lstsq", "6/uidl")
    kept = copy.file("6/uidl").read_bytes()
    path = copy.file("6/uidl")
    path.unlink()
    commit("good results")
    (tmp_path / "README").write_text("not a result")
    commit("something else")
    copy.flip("6/lstsq", FACTS, losses=40)
    path.write_bytes(kept)
    commit("worse | with <uidl> \x1b[31m")
    lstsq = copy.file("6/lstsq")
    whole = lstsq.read_bytes()
    lstsq.write_text('{"schema_version": 999}')
    commit("from the future")
    lstsq.write_text(json.dumps(as_schema_3(json.loads(whole))))
    commit("from the past")
    return copy.folder


def as_schema_3(record: dict[str, Any]) -> dict[str, Any]:
    """A record as a release with one engine process wrote it."""
    record["schema_version"] = 3
    record["serving"]["result"] = record["serving"].pop("processes")[0]
    record["prune"].pop("distances", None)
    for failure in record["failures"]:
        failure.pop("attempt", None)
    return record


def test_points_are_the_commits_of_the_folder_oldest_first(repository: Path) -> None:
    found = over_commits.read_history(repository, "average")
    subjects = ["good results", "worse | with <uidl> \x1b[31m", "from the future", "from the past"]
    assert [point.subject for point in found.points] == subjects
    averages = [point.values[LSTSQ].number if not point.problem else None for point in found.points]
    assert averages[0] is not None
    assert averages[1] == pytest.approx(averages[0] - 10 / 5)
    assert averages[1:] == [averages[1], None, averages[1]]
    assert [len(point.values) for point in found.points] == [2, 3, 0, 3]


def test_values_are_the_leaderboards(repository: Path, demo: Callable[..., Any]) -> None:
    table = leaderboard.build(demo("again", "baseline", "6/lstsq").store.all().values())
    row = next(row for row in table.rows if row.layers == 6)
    for metric in ("average", "rp", "loss", "speedup", "parameters", f"task:{FACTS}"):
        found = over_commits.read_history(repository, metric).points[0].values[LSTSQ]
        assert found.number == row.values[metric].number
        assert found.stderr == row.values[metric].stderr
    assert (
        over_commits.read_history(repository, FACTS).points
        == over_commits.read_history(repository, f"task:{FACTS}").points
    )


def test_commit_that_cannot_be_read_is_a_row_that_says_why(repository: Path) -> None:
    found = over_commits.read_history(repository, "average")
    assert found.points[2].problem is not None
    assert found.points[2].problem.startswith("records/smollm2-135m-instruct-6-lstsq-")
    assert "schema_version is 999" in found.points[2].problem
    for text in (history_table.text(found), history_table.markdown(found)):
        assert "cannot be read: records/" in text


def test_commits_with_other_items_are_marked(
    demo: Callable[..., Any], commit: Callable[[str], str]
) -> None:
    copy = demo("results", "baseline")
    commit("all items")
    copy.flip("baseline", FACTS, losses=1)
    commit("the same items")
    copy.change("baseline", lambda r: [cells.change_task(t, limit=9) for t in r.quality.values()])
    commit("a few items")
    found = over_commits.read_history(copy.folder, "average")
    assert [point.other_items for point in found.points] == [False, False, True]
    assert history_table.text(found).count("(other tasks or items than before)") == 1


@pytest.mark.parametrize("width", [80, 44])
def test_terminal_shows_the_newest_commits_that_fit(repository: Path, width: int) -> None:
    found, file = over_commits.read_history(repository, "average"), io.StringIO()
    history_table.render(found, Console(file=file, width=width, force_terminal=True, color_system=None))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    (lstsq,) = [line for line in lines if line.startswith("6/lstsq")]
    last = found.points[-1].values[LSTSQ].number
    assert f"{last:.1f}" in lstsq.split()
    hidden = "older commits do not fit this width." in file.getvalue()
    assert hidden == (width == 44)
    assert "\x1b" not in file.getvalue()


def test_markdown_is_safe_whatever_a_subject_holds(repository: Path) -> None:
    text = history_table.markdown(over_commits.read_history(repository, "rp"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {6}
    assert "\\<uidl" in text
    assert "\x1b" not in text


def test_json_has_every_commit_and_value(repository: Path, call_here: Callable[..., Any]) -> None:
    content = json.loads(call_here("history", repository, "--format", "json").stdout)
    found = over_commits.read_history(repository, "average")
    assert [c["commit"] for c in content["commits"]] == [point.commit for point in found.points]
    first = content["commits"][0]["values"]
    assert {"model": LSTSQ[0], "layers": 6, "label": "lstsq"}.items() <= first[1].items()
    assert first[1]["value"] == found.points[0].values[LSTSQ].number


@pytest.mark.parametrize(("name", "start"), [("h.png", b"\x89PNG"), ("h.svg", b"<svg")])
def test_plot_is_a_picture_with_a_line_for_each_cell(
    repository: Path, call_here: Callable[..., Any], tmp_path: Path, name: str, start: bytes
) -> None:
    result = call_here("history", repository, "--plot", tmp_path / name)
    assert result.returncode == 0
    assert (tmp_path / name).read_bytes().startswith(start)
    if name.endswith("svg"):
        for text in ("lstsq", "uidl", "6 layers out", "intact"):
            assert text in (tmp_path / name).read_text("utf-8")


def test_plot_has_the_values_and_their_errors(repository: Path) -> None:
    found = over_commits.read_history(repository, "average")
    figure = chart(found)
    assert figure.spec is not None
    (rows,) = figure.spec["datasets"].values()
    assert len(rows) == sum(len(point.values) for point in found.points)
    value = found.points[0].values[LSTSQ]
    (row,) = [r for r in rows if r["commit"] == found.points[0].commit and r["solver"] == "lstsq"]
    assert value.number is not None
    assert value.stderr is not None
    assert (row["y"], row["high"] - row["low"]) == pytest.approx((value.number, 2 * 1.96 * value.stderr))


def test_wrong_input_is_refused(
    repository: Path, call_here: Callable[..., Any], refused: Callable[..., None], tmp_path: Path
) -> None:
    refused(call_here("history", repository, "--metric", "averge"), "did you mean 'average'")
    refused(call_here("history", tmp_path / "nowhere"), "is not a folder")
    refused(call_here("history", repository, "--plot", "x.gif"), ".png, .svg or .pdf")
    (tmp_path / "fresh").mkdir()
    refused(call_here("history", tmp_path / "fresh"), "no commit has touched")


def test_outside_of_a_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a git repository"):
        over_commits.read_history(tmp_path, "average")


def test_history_of_the_demo_is_read_across_schemas() -> None:
    folder = Path(__file__).parents[2] / "results" / "demo"
    commits = subprocess.run(
        ["git", "-C", str(folder), "log", "--format=%h", "--", "."], capture_output=True, text=True
    ).stdout.split()
    if commits:  # none in an unpacked archive
        found = over_commits.read_history(folder, "average")
        assert [point.commit for point in found.points] == commits[::-1]
        assert not [point.problem for point in found.points if point.problem]
