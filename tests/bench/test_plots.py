"""Records → charts, and the files of them."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.leaderboard import leaderboard
from bench.plots import PAPER, SCREEN, Figure, figures
from bench.plots.facts import Z95
from bench.plots.files import drawn
from bench.plots.marks import Solvers, chart, finished
from bench.plots.pareto import frontier
from bench.plots.style import DARK, LIGHT, STEPS, looks
from bench.records import Record
from bench.store import Store
from tests.bench import cells

pytestmark = pytest.mark.slow

PAGE_STYLE = Path(__file__).parents[2] / "bench" / "page" / "assets" / "page.css"


def named(ending: str, drawn_from: list[Figure]) -> Figure:
    """The one figure whose name ends so."""
    (figure,) = [figure for figure in drawn_from if figure.name.endswith(ending)]
    return figure


def found(records: list[Record], ending: str) -> Figure:
    return named(ending, figures(records, SCREEN))


@pytest.fixture(scope="module")
def matrix() -> list[Figure]:
    """The charts of a baseline and two solvers at two cuts."""
    return figures(cells.matrix(), SCREEN)


def marks(figure: Figure, kind: str, **wanted: Any) -> Iterator[dict[str, Any]]:
    """The rows behind every layer of a chart with marks of one kind."""

    def layers(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for layer in part.get("layer", [part]):
            yield from layers(layer) if "layer" in layer else [layer]

    assert figure.spec
    for layer in layers(figure.spec):
        if layer["mark"]["type"] == kind and wanted.items() <= layer["mark"].items():
            data = layer.get("data") or figure.spec["data"]
            yield from figure.spec["datasets"][data["name"]]


def test_averages_and_relative_performance_are_those_of_the_leaderboard(matrix: list[Figure]) -> None:
    figure = named("quality", matrix)
    rows = {(row[0], row[1]): row for row in figure.rows}
    for row in leaderboard.build(cells.matrix()).rows:
        shown = rows[row.label, str(row.layers)]
        average, rp = row.values["average"], row.values["rp"]
        assert average.number is not None
        assert average.stderr is not None
        assert rp.number is not None
        assert shown[2] == f"{average.number:.1f}"
        assert shown[4] == f"{rp.number:.1f}"
        low, high = (average.number + sign * Z95 * average.stderr for sign in (-1, 1))
        assert shown[3] == f"{low:.1f} to {high:.1f}"
    assert "With 2 layers removed, lstsq is best with 60.0 %, uidl last with 50.0 %." in figure.alt


def test_every_solver_has_a_line_from_the_intact_model_through_its_cuts(matrix: list[Figure]) -> None:
    rows = list(marks(named("quality", matrix), "line"))
    lines = {solver: [r for r in rows if r["solver"] == solver] for solver in ("uidl", "lstsq")}
    assert [row["y"] for row in lines["uidl"]] == [70, 50, 30]
    assert [row["y"] for row in lines["lstsq"]] == [70, 60, 40]
    assert [row["cut"] for row in lines["lstsq"]] == ["0", "2", "4"]
    assert all(abs(row["x"] - int(row["cut"])) < 0.2 for row in rows)


def test_a_cell_that_lacks_a_task_of_the_others_has_no_average_in_a_chart() -> None:
    records = [*cells.matrix(False), cells.cell("half", 2, {"a": 0.9})]
    names = {row[0] for row in found(records, "quality").rows}
    assert names == {"baseline", "uidl", "lstsq"}


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_frontier_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    best = frontier(points)
    for index, (cost, quality) in enumerate(points):
        cheaper_or_equal = [q for i, (c, q) in enumerate(points) if i != index and c <= cost]
        better = [c for c, q in points if q > quality and c <= cost]
        same_for_less = [c for c, q in points if q == quality and c < cost]
        assert (index in best) == (not better and not same_for_less), cheaper_or_equal
    assert bool(best) == bool(points)


def test_frontier_of_latency_and_its_bars_are_the_measured_ones(matrix: list[Figure]) -> None:
    figure = named("latency-in128-out64-b1", matrix)
    rows = {row[0]: row[1:] for row in figure.rows}
    # two processes of 0.98, 1 and 1.02 s, and of as much and a tenth, so 1.049 s of both
    assert rows["lstsq, 4 removed"][:2] == ["1,049.0", "1,000.0 to 1,100.0"]
    on_line = {name for name, row in rows.items() if row[-1] == "yes"}
    assert on_line == {"baseline", "lstsq, 2 removed", "lstsq, 4 removed"}
    assert "medians of the engine processes" in figure.caption
    assert "lstsq, 4 removed (1,049.0 ms, 40.0 %)" in figure.alt


def test_bars_of_a_single_process_are_its_timed_runs() -> None:
    records = [cells.cell("uidl", 2, {"a": 0.5}, serving=cells.serving(1.0))]
    figure = found(records, "latency-in128-out64-b1")
    assert figure.rows[0][1:3] == ["1,000.0", "980.0 to 1,020.0"]
    assert "timed runs" in figure.caption


def test_memory_is_that_of_the_weights(matrix: list[Figure]) -> None:
    rows = {row[0]: row[1] for row in named("memory", matrix).rows}
    assert (rows["baseline"], rows["uidl, 4 removed"]) == ("270.0", "230.0")


def test_different_devices_and_settings_are_never_in_one_chart() -> None:
    gpu = cells.serving(0.1, device="GPU")
    compiled = cells.serving(0.05)
    settings = compiled.processes[0].engine_settings.model_copy(update={"enforce_eager": False})
    compiled.processes[0] = compiled.processes[0].model_copy(update={"engine_settings": settings})
    extra = [
        cells.cell("gpu", 2, {"a": 0.7, "b": 0.5}, serving=gpu),
        cells.cell("compiled", 2, {"a": 0.7, "b": 0.5}, serving=compiled),
    ]
    drawn_ = [f for f in figures([*cells.matrix(), *extra], SCREEN) if "latency" in f.name]
    together = [{row[0].split(",")[0] for row in figure.rows} for figure in drawn_]
    assert together == [{"baseline", "uidl", "lstsq"}] * 2 + [{"gpu"}] * 2 + [{"compiled"}] * 2
    assert len({figure.caption for figure in drawn_}) == 6
    assert len({figure.name for figure in drawn_}) == 6


def test_time_of_a_batch_is_first_token_and_further_ones(matrix: list[Figure]) -> None:
    figure = named("times-in128-out64-b8", matrix)
    shapes = [row[0] for row in figure.rows]
    assert shapes == ["baseline", "2 removed", "4 removed"]  # solvers share what depends on the shape
    parts = {(row["shape"], row["part"]): row["ms"] for row in marks(figure, "bar")}
    # batches of 8 take twice as long: 2 × 1.049 s; a fifth of it until the first token
    assert parts["4 removed", "first token"] == pytest.approx(419.6)
    assert parts["4 removed", "further tokens"] == pytest.approx(1678.4)


def test_heat_map_shows_every_block_and_outlines_the_removed_ones(matrix: list[Figure]) -> None:
    figure = named("distances", matrix)
    rows = list(marks(figure, "rect", filled=False))
    given_ = cells.distances(16)
    assert len(rows) / 2 == sum(map(len, given_)) == 120
    assert all(row["d"] == given_[row["n"] - 1][row["s"] - 1] for row in rows)
    removed = {(row["s"], row["n"]): row["by"] for row in rows if row["by"]}
    assert removed == {(7, 2): "uidl, lstsq", (6, 4): "uidl, lstsq"}
    sizes = {row[0]: row for row in figure.rows}
    assert sizes["4"][1:] == ["[6, 10)", "0.0800", "[5, 9)", "0.0840", "[6, 10) by uidl, lstsq"]
    assert "120 blocks" in figure.alt


def test_cells_with_other_distances_have_a_heat_map_of_their_own() -> None:
    records = cells.matrix(False)
    assert records[1].prune
    records[1].prune.distances = cells.distances(12)
    maps = [f for f in figures(records, SCREEN) if "distances" in f.name]
    assert [figure.name for figure in maps] == ["m-distances", "m-distances-2"]
    assert {len(figure.rows) for figure in maps} == {11, 15}


@pytest.mark.parametrize("distances", [[[0.1]], [[0.2, 0.2], [0.2]], [[None, 0.1]]])
def test_heat_maps_of_odd_distances_can_be_drawn(distances: list[list[float | None]]) -> None:
    record = cells.cell("uidl", 2, {"a": 0.5})
    assert record.prune
    record.prune.distances = distances
    assert drawn(found([record], "distances"), "svg").startswith(b"<svg")


def test_tasks_are_compared_at_each_cut_with_their_intervals(matrix: list[Figure]) -> None:
    figure = named("tasks-4", matrix)
    rows = {(row[0], row[1]): row[2:] for row in figure.rows}
    assert set(rows) == {(t, s) for t in ("a acc", "b acc") for s in ("baseline", "uidl", "lstsq")}
    assert rows["a acc", "lstsq"] == ["50.0", "44.1 to 55.9", "100"]


def test_metrics_that_are_no_shares_are_named_and_not_drawn() -> None:
    records = cells.matrix(False)
    for record in records:
        record.quality["b"].metrics["acc"].value = 23.4
    figure = found(records, "tasks-2")
    assert {row[0] for row in figure.rows} == {"a acc"}
    assert "Not shown, since no shares: b acc." in figure.caption


def rules(figure: Figure) -> list[int]:
    """How many straight lines each layer of a chart draws, layers of none included."""
    svg = ElementTree.fromstring(drawn(figure, "svg"))
    groups = [group for group in svg.iter() if "mark-rule role-mark" in group.get("class", "")]
    return sorted(map(len, groups))


def test_an_unknown_error_leaves_its_bar_out() -> None:
    records = cells.matrix()
    before = figures(records, SCREEN)
    for record in records[1:]:
        for task in record.quality.values():
            task.metrics["acc"].stderr = None
    after = figures(records, SCREEN)
    assert [row[3] for row in named("quality", after).rows] == ["65.8 to 74.2", *["–"] * 4]
    expected = {  # lines of the solvers, of the intact model and of its level; upright, level; spans
        "quality": ([1, 1, 4], [0, 1, 1]),
        "memory": ([0, 5], [0, 1]),
        "b1": ([5, 5], [1, 5]),
        "tasks-2": ([6], [2]),
    }
    for name, counts in expected.items():
        pair = [named(name, [f for f in found_ if "times" not in f.name]) for found_ in (before, after)]
        assert tuple(map(rules, pair)) == counts, name


def test_solvers_look_the_same_in_all_charts_and_differ_in_more_than_colour() -> None:
    labels = [f"solver {i}" for i in range(40)]
    found_ = looks(labels, PAPER)
    seen = {(look["colour"], look["shape"]) for look in found_.values()}
    assert len(seen) == 41
    first = [found_[label] for label in labels[:5]]
    for key in ("colour", "shape"):
        assert len({look[key] for look in first}) == 5
    assert len({str(look["dash"]) for look in first}) == 5


def test_names_that_every_javascript_object_has_are_set_apart() -> None:
    records = [cells.cell(name, 2, {"a": 0.5}) for name in ("constructor", "__proto__", "toString")]
    rows = list(marks(found(records, "tasks-2"), "bar"))
    assert {row["solver"] for row in rows} == {"constructor ", "__proto__ ", "toString "}


def luminance(colour: str) -> float:
    """Relative luminance as in WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_colours_have_the_contrast_that_wcag_asks_for(scheme: dict[str, str]) -> None:
    series = [colour for name, colour in scheme.items() if re.fullmatch(r"s\d", name)]
    assert len(set(series)) == 7
    assert min(contrast(colour, scheme["surface"]) for colour in series) >= 3
    assert min(contrast(scheme[name], scheme["surface"]) for name in ("ink", "muted")) >= 4.5


def test_steps_of_the_heat_map_differ_in_lightness() -> None:
    lights = [luminance(colour) for colour in STEPS]
    assert lights == sorted(lights, reverse=True)
    assert len(set(lights)) == len(STEPS) == 9


def test_page_and_charts_have_the_same_variables() -> None:
    used = set(re.findall(r"var\(--([a-z0-9]+)\)", PAGE_STYLE.read_text("utf-8")))
    own = set(re.findall(r"--([a-z]+):", PAGE_STYLE.read_text("utf-8")))
    assert used <= own | set(LIGHT)
    assert set(LIGHT) == set(DARK)
    assert set(SCREEN.colours.values()) == {f"var(--{name})" for name in LIGHT}


def png_size(content: bytes) -> tuple[int, int]:
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def test_files_have_the_width_of_a_column_in_every_format() -> None:
    figure = next(f for f in figures(cells.matrix(False), PAPER) if f.name.endswith("quality"))
    assert png_size(drawn(figure, "png"))[0] == pytest.approx(240 * 300 / 72, abs=4)  # 3⅓ inches
    svg = ElementTree.fromstring(drawn(figure, "svg"))
    assert svg.attrib["width"] == "240"
    assert "var(" not in drawn(figure, "svg").decode()
    pdf = drawn(figure, "pdf")
    assert pdf.startswith(b"%PDF-")
    texts = pdf + b"".join(
        zlib.decompress(part)
        for part in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
        if part[:1] == b"x"
    )
    assert re.search(rb"/MediaBox ?\[ ?0 0 240 ", texts)


def test_long_names_in_a_legend_of_one_column_are_whole(matrix: list[Figure]) -> None:
    names = [f"reconstruct-then-healed, {cut} layers removed" for cut in (3, 6, 9)]
    points = chart([{"solver": name, "x": 1} for name in names]).mark_point()
    spec = finished(points.encode(x="x:Q", color=Solvers(names, names, PAPER).colour), PAPER)
    svg = drawn(replace(matrix[0], spec=spec), "svg").decode()
    assert [name for name in names if name in svg] == names


def test_hostile_names_stay_text_in_an_svg() -> None:
    for figure in figures(cells.hostile(), PAPER):
        if figure.name.endswith(("quality", "tasks-1")):
            svg = drawn(figure, "svg").decode()
            tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
            assert tags <= {"svg", "g", "path", "text", "line", "rect", "defs", "clipPath", "tspan"}
            assert "&lt;" in svg


def write(folder: Path, records: list[Record]) -> Path:
    for index, record in enumerate(records):
        Store(folder).write(f"cell{index}", record)
    return folder


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_plot_writes_one_file_a_chart_and_names_them(
    call_here: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    folder = write(tmp_path / "results", cells.matrix()[:3])
    result = call_here("plot", folder, "--out", tmp_path / "charts", "--format", kind)
    assert result.returncode == 0
    named = result.stdout.splitlines()
    assert sorted(named) == sorted(map(str, (tmp_path / "charts").iterdir()))
    assert {Path(name).suffix for name in named} == {f".{kind}"}
    assert len(named) == len([f for f in figures(cells.matrix()[:3], PAPER) if f.spec]) == 8


def test_plot_says_which_charts_it_cannot_draw(call_here: Callable[..., Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "results", [cells.failed("uidl", 3, "no luck")])
    result = call_here("plot", folder, "--out", tmp_path / "charts")
    assert result.returncode == 0
    assert result.stdout == ""
    assert "m-serving: not drawn. Nothing was served" in result.stderr
    assert not (tmp_path / "charts").exists()


def test_plot_writes_nothing_outside_its_folder(call_here: Callable[..., Any], tmp_path: Path) -> None:
    names = ["../../up", "/etc/x", "..", "a/b", "A B", "a b", "con\nfused", "é"]
    records = [cells.cell("uidl", 2, {"a": 0.5}, model=name) for name in names]
    result = call_here("plot", write(tmp_path / "results", records), "--out", tmp_path / "charts")
    written = list(tmp_path.rglob("*.png"))
    assert {path.parent for path in written} == {tmp_path / "charts"}
    assert len(written) == 3 * len(names) == len(result.stdout.splitlines())
    assert len({path.name.lower() for path in written}) == len(written)


def test_plot_refuses_what_it_cannot_read_or_write(
    call: Callable[..., Any], refused: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    refused(call("plot", tmp_path / "empty", "--out", tmp_path / "x"), "holds no records")
    folder = write(tmp_path / "results", cells.matrix(served=False)[:2])
    (tmp_path / "file").write_text("")
    refused(call("plot", folder, "--out", tmp_path / "file"), "cannot be written")


def test_figures_of_one_run_have_names_of_their_own() -> None:
    records = [record for model in ("m", "M", "m!") for record in cells.matrix(False, model=model)]
    names = [figure.name.lower() for figure in figures(records, PAPER)]
    assert len(names) == len(set(names)) == 15
    assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in names)


def test_the_latest_record_of_a_cell_is_drawn() -> None:
    old = cells.cell("uidl", 2, {"a": 0.9, "b": 0.9}, updated="2020-01-01T00:00:00+00:00")
    rows = found([old, *cells.matrix(False)], "quality").rows
    assert ["uidl", "2", "50.0"] in [row[:3] for row in rows]
    assert len(rows) == 5


def test_style_of_the_page_takes_the_width_it_is_given() -> None:
    for figure in figures(cells.matrix(), replace(SCREEN, height=99)):
        assert figure.spec
        assert figure.spec["width"] == "container"
        assert figure.spec["autosize"] == {"type": "fit-x", "contains": "padding"}
