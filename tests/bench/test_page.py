"""The page as a text: its structure, what it lets run, and what hostile names do to it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench import page, repeat
from bench.leaderboard import leaderboard
from bench.page.columns import OTHER, sets_of
from bench.page.drawer import drawers
from bench.records import Record
from bench.store import Store
from bench.verbs.prune import prune as prune_verb
from replaceme.options import PruneOptions, read_options
from replaceme.recipe import LOCAL
from tests.bench import cells

DEMO = Path(__file__).parent / "samples" / "demo"


def rendered(records: list[Record]) -> str:
    return page.render(records, leaderboard.build(records))


class Parsed(HTMLParser):
    """The tags of a page with the names of their attributes, its texts, its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.raw.append((*self.tags[-1], data))
        else:
            self.texts.append(data)

    @property
    def structure(self) -> list[tuple[str, tuple[str, ...]]]:
        """Tags with their attributes' names; without the places where a long name may break."""
        return [(tag, tuple(attrs)) for tag, attrs in self.tags if tag != "wbr"]

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def script(self, kind: str | None) -> list[str]:
        return [text for tag, attrs, text in self.raw if tag == "script" and attrs.get("type") == kind]

    @property
    def specs(self) -> dict[str, Any]:
        (text,) = self.script("application/json")
        found: dict[str, Any] = json.loads(text)
        return found


@pytest.fixture(scope="module")
def small() -> str:
    return rendered(cells.matrix())


@pytest.fixture(scope="module")
def demo_records() -> list[Record]:
    return list(Store(DEMO).all().values())


@pytest.fixture(scope="module")
def demo(demo_records: list[Record]) -> str:
    return rendered(demo_records)


@pytest.fixture(scope="module")
def hostile() -> str:
    return rendered(cells.hostile())


def test_page_points_nowhere_outside_itself(demo: str) -> None:
    parsed = Parsed(demo)
    ids = {attrs["id"] for _, attrs in parsed.tags if attrs.get("id")}
    links = [attrs["href"] or "" for attrs in parsed.of("a")]
    assert len(links) > 12
    assert {link[0] for link in links} == {"#"}
    assert {link[1:] for link in links} <= ids
    loading = {"src", "srcset", "data", "poster", "action", "style", "background", "http-equiv"}
    found = {name for tag, attrs in parsed.tags for name in attrs if name in loading}
    assert found == {"http-equiv"}
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "svg"}
    (style,) = [text for tag, _, text in parsed.raw if tag == "style"]
    assert "url(" not in style
    assert "@import" not in style


def test_policy_allows_the_pages_own_scripts_and_style_and_nothing_else(hostile: str) -> None:
    parsed = Parsed(hostile)
    policy = next(a["content"] or "" for a in parsed.of("meta") if a.get("http-equiv"))
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split("; ")}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert set(rules) == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    style = [text for tag, _, text in parsed.raw if tag == "style"]
    assert rules["script-src"] == [sha256(text) for text in parsed.script(None)]
    assert rules["style-src"] == [sha256(text) for text in style]


def sha256(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_hostile_names_change_no_tag_and_no_attribute(
    hostile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "HOSTILE", [f"name{i}" for i in range(len(cells.HOSTILE))])
    harmless = Parsed(rendered(cells.hostile()))
    parsed = Parsed(hostile)
    assert len(parsed.structure) > 3000
    assert parsed.structure == harmless.structure
    assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on")]


@pytest.mark.parametrize("name", [name for name in cells.HOSTILE if "\n" not in name])
def test_hostile_names_are_shown_as_they_are(hostile: str, name: str) -> None:
    shown = Counter(text.strip() for text in Parsed(hostile).texts)
    assert shown[name] > 10


def test_control_characters_are_made_visible() -> None:
    records = [cells.cell("a\x1b[31m\u202eb", 2, {"t": 0.5})]
    text = rendered(records)
    assert "a␛[31m{U+202E}b" in text
    assert not {"\x1b", "\u202e"} & set(text)


def test_data_of_the_charts_hold_nothing_that_html_reads(hostile: str) -> None:
    (data,) = Parsed(hostile).script("application/json")
    assert not {"<", ">", "&"} & set(data)


def test_charts_use_names_as_data_alone(hostile: str) -> None:
    """Not as fields, expressions, titles, or keys, where a dot or quote would mean something."""
    specs = Parsed(hostile).specs
    assert len(specs) > 15

    def texts(part: Any, path: tuple[str, ...]) -> Any:
        if isinstance(part, dict):
            for key, item in part.items():
                yield path, key
                yield from texts(item, (*path, key))
        elif isinstance(part, list):
            for item in part:
                yield from texts(item, path)
        else:
            yield path, part

    places = {
        path[-1] if path and path[0] != "datasets" else "datasets"
        for spec in specs.values()
        for path, text in texts(spec, ())
        if isinstance(text, str) and any(name in text for name in cells.HOSTILE)
    }
    assert places == {"datasets", "domain", "sort"}
    rows = [row for spec in specs.values() for found in spec["datasets"].values() for row in found]
    keys = {key for row in rows for key in row}
    assert all(re.fullmatch(r"[a-z]+[01]?", key) for key in keys)


def test_every_chart_has_its_specification_words_and_table(demo: str) -> None:
    parsed = Parsed(demo)
    charts = [attrs for attrs in parsed.of("div") if "data-chart" in attrs]
    assert {chart["data-chart"] for chart in charts} == set(parsed.specs)
    assert len(charts) > 6
    for chart in charts:
        assert chart["role"] == "img"
        assert len(chart["aria-label"] or "") > 60
    assert len(parsed.of("figure")) == len(parsed.of("figcaption")) == len(charts)
    assert len(parsed.of("details")) == len(charts)


def test_without_distances_there_is_a_sentence_instead_of_a_heat_map() -> None:
    records = cells.matrix(False)
    for record in records:
        assert record.prune
        record.prune.distances = None
    parsed = Parsed(rendered(records))
    assert "Distances of all blocks: The records hold no distances" in " ".join(parsed.texts)
    assert not [name for name in parsed.specs if "distances" in name]


def test_rows_are_there_without_javascript_and_lead_to_their_cells(
    demo: str, demo_records: list[Record]
) -> None:
    parsed = Parsed(demo)
    rows = [attrs for attrs in parsed.of("tr") if "data-solver" in attrs]
    assert len(rows) == len(demo_records) > 10
    dialogs = [attrs["id"] for attrs in parsed.of("dialog")]
    links = [(attrs["href"] or "")[1:] for attrs in parsed.of("a") if "aria-haspopup" in attrs]
    assert sorted(links) == sorted(filter(None, dialogs))
    ids = [attrs["id"] for _, attrs in parsed.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))


def test_numbers_are_those_of_the_leaderboard(demo: str, demo_records: list[Record]) -> None:
    table = leaderboard.build(demo_records)
    shown = Parsed(demo).texts
    for row in table.rows:
        for column in table.columns:
            assert leaderboard.show(row.values[column.key], column) in shown
    for note in table.notes:
        assert note in shown


def test_marks_are_words_too() -> None:
    records = cells.matrix(False)
    assert records[1].prune
    records[1].prune.warning = "look out"
    texts = " ".join(" ".join(Parsed(rendered(records)).texts).split())
    assert texts.count("best average of its cut") == 2
    assert "uidl ! warning: look out" in texts
    assert "baseline intact" in texts


def test_failed_cells_stand_with_stage_and_reason() -> None:
    text = rendered([*cells.matrix(False), cells.failed("refit", 2, "out of memory")])
    texts = " ".join(" ".join(Parsed(text).texts).split())
    assert "refit ✗ failed" in texts
    assert "refit at 2: prune: out of memory" in texts
    assert "What failed stage reason prune out of memory" in texts
    assert "6 cells, 1 failed" in texts


def test_best_is_marked_as_asked(small: str) -> None:
    records = cells.matrix(False)
    table = leaderboard.build(records)
    bold, star, none = (page.render(records, replace(table, mark=m)) for m in ("bold", "star", "none"))
    assert "<strong>" in small
    assert "★" in small
    assert ("<strong>" in bold, "★" in bold) == (True, False)
    assert ("<strong>" in star, "★" in star) == (False, True)
    assert ("<strong>" in none, "★" in none) == (False, False)


def test_details_of_a_cell_are_those_of_its_record() -> None:
    record = cells.matrix()[2]
    assert record.prune
    record.prune.runner_up, record.prune.runner_up_score = [(3, 5)], 0.12345
    record.prune.notes = {"rank": 1536}
    record.prune.warning = "look out"
    record.environment = {"packages": {"torch": "2.13.0"}, "commit": "abc", "dirty": False}
    drawer = drawers([record])["m", 2, "lstsq"]
    assert (drawer.title, drawer.name) == ("lstsq, 2 layers removed", "cell-m-2-lstsq")
    facts = {name: text for section in drawer.sections for name, text in section.facts}
    assert facts["removed layers"] == "7 to 8"
    assert facts["chosen by"] == "angular: 0.1000 (angular distance, 0 to 1)"
    assert facts["second choice"] == "3 to 4: 0.1235"
    assert facts["its parameters"] == "ridge 0.5"
    assert facts["solver's note: rank"] == "1536"
    assert facts["weights"] == "250.0 MB"
    assert (facts["torch"], facts["commit"], facts["dirty"]) == ("2.13.0", "abc", "no")
    assert (facts["few-shot, all tasks"], facts["items, all tasks"]) == ("0", "100")
    assert "Warning: look out." in [text for section in drawer.sections for text in section.texts]
    rows = [row for section in drawer.sections for row in section.rows]
    assert ["loss, nats per held-back token", "3.9000", "3.5000"] in rows
    assert ["a", "acc (primary)", "0.7000", "0.0300"] in rows
    latency = next(row for row in rows if row[:2] == ["in128-out64-b1", "latency of a batch (ms)"])
    # two processes with 0.9, 1 and 1.2 times 1.6 s and 1.76 s: 1.44 1.584 1.6 | 1.76 1.92 2.112
    assert (latency[2], *latency[5:]) == ("1,678.40", "1,568.00", "1,795.20", "6")


def test_dialogs_have_names_of_their_own() -> None:
    records = [cells.cell(label, 2, {"a": 0.5}) for label in ("x y", "x-y", "X_y", "–", "—")]
    names = [drawer.name for drawer in drawers(records).values()]
    assert len(set(names)) == 5
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


def shell_words(command: str, tmp_path: Path) -> tuple[list[str], str]:
    """What a shell makes of a command: the words after its verb, and what it is given as input."""
    stub = tmp_path / "replaceme-bench"
    stub.write_text('#!/bin/sh\nprintf \'%s\\0\' "$@"\ncase "$*" in */dev/stdin*) cat;; esac\n')
    stub.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", command],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert not done.stderr
    *words, given = done.stdout.split("\0")
    return words[1:], given


def options(command: str, tmp_path: Path) -> PruneOptions:
    """What ``prune`` is told by a command."""
    words, given = shell_words(command, tmp_path)
    told = {
        key: value
        for key, value in prune_verb.make_context("prune", words).params.items()
        if value not in (None, False, ())
    }
    if (config := told.pop("config", None)) is not None:
        assert str(config) == "/dev/stdin"
        config = tmp_path / "config.yaml"
        config.write_text(given)
    return read_options(config, told)


def same_cell(found: PruneOptions, record: Record) -> None:
    """Check that options make the identity that a record has."""
    identity = record.identity.canonical()
    assert found.model == record.model_id
    assert found.make_solver().identity == identity["solver"]
    assert found.selector == identity["selector"]
    assert [[block.start, block.end] for block in found.given] == identity["blocks"]
    assert found.num_blocks == identity["num_blocks"]
    assert found.calibration_dtype == identity["calibration_dtype"]
    assert found.compat == identity["compat"]
    assert found.dtype == identity["model"]["dtype"]
    assert found.data.identity() == identity["calibration"]


def test_command_makes_the_same_cell_again(demo_records: list[Record], tmp_path: Path) -> None:
    pruned = [record for record in demo_records if record.layers]
    assert len(pruned) > 5
    for record in pruned:
        found = options(repeat.commands(record)[0], tmp_path)
        same_cell(found, record)
        assert found.layers == record.layers


def test_command_says_what_the_options_cannot(demo_records: list[Record], tmp_path: Path) -> None:
    record = next(r for r in demo_records if r.label == "cosine" and r.layers % 2 == 0)
    record = record.model_copy(deep=True)
    assert record.identity.prune
    parameters = record.identity.prune.solver.parameters
    cells.change_solver(
        record, parameters=parameters | {"method": "irls", "exact": True, "iterations": 7}
    )
    cells.change_step(record, num_blocks=2, compat="reference", selector="angular")
    cells.change_model(record, dtype="float32")
    command = repeat.commands(record)[0]
    assert "<<'END'" in command
    same_cell(options(command, tmp_path), record)


def test_command_names_given_blocks(demo_records: list[Record], tmp_path: Path) -> None:
    record = next(r for r in demo_records if r.label == "lstsq").model_copy(deep=True)
    cells.change_step(record, blocks=[(3, 6), (9, 12)], selector=None)
    assert record.identity.prune
    cells.change_solver(record, parameters=record.identity.prune.solver.parameters | {"ridge": 0.125})
    found = options(repeat.commands(record)[0], tmp_path)
    assert [(block.start, block.end) for block in found.given] == [(3, 6), (9, 12)]
    assert found.make_solver().identity == record.identity.canonical()["solver"]


@pytest.mark.parametrize("name", [*cells.HOSTILE, "--help", "-x", "$(id)", "a'; touch x; '", "`id`"])
def test_command_passes_hostile_names_through_a_shell(name: str, tmp_path: Path) -> None:
    record = cells.cell("lstsq", 2, {}, model=name, model_id=name)
    words, _ = shell_words(repeat.commands(record)[0], tmp_path)
    assert prune_verb.make_context("prune", words).params["model"] == name
    words, _ = shell_words(repeat.commands(record)[1], tmp_path)
    assert words[:2] == ["SUITE.yaml", "--only"]
    assert not (tmp_path / "x").exists()


def test_unknown_calibration_data_and_revisions_are_said(tmp_path: Path) -> None:
    record = cells.cell("lstsq", 2, {})
    cells.change_calibration(record, data="sha256:0")
    cells.change_model(record, weights="hub:org/m@abc123")
    words, _ = shell_words(repeat.commands(record)[0], tmp_path)
    assert words[words.index("--calibration") + 1] == LOCAL
    assert words[words.index("--revision") + 1] == "abc123"
    assert any("sha256:0" in remark for remark in repeat.remarks(record))


CASES = {
    "one cell": [cells.cell("uidl", 3, {"a": 0.5})],
    "baseline alone": [cells.cell("baseline", 0, {"a": 0.5}, serving=cells.serving(1.0))],
    "only failures": [cells.failed("uidl", 3, "no luck"), cells.failed("baseline", 0, "none", "serve")],
    "no scores": [cells.cell("uidl", 3, {}, serving=cells.serving(1.0))],
    "not begun": [Record(model="m", model_id="m", layers=3, label="x", identity={})],
    "unknown scores": [cells.cell("uidl", 3, {"a": None}), cells.cell("baseline", 0, {"a": None})],
    "baseline at zero": [cells.cell("uidl", 3, {"a": 0.0}), cells.cell("baseline", 0, {"a": 0.0})],
}
EXPECTED = {
    "one cell": "Latency and memory: Nothing was served",
    "baseline alone": "No pruned cell of this model has all its scores.",
    "only failures": "uidl at 3: prune: no luck",
    "no scores": "No task of these cells has a score.",
    "not begun": "No pruned cell of this model has all its scores.",
    "unknown scores": "No task of these cells has a score.",
    "baseline at zero": "Quality against layers removed",
}


@pytest.mark.parametrize("case", CASES)
def test_partial_results_make_a_page_that_says_what_is_missing(case: str) -> None:
    text = rendered(CASES[case])
    parsed = Parsed(text)
    assert EXPECTED[case] in " ".join(" ".join(parsed.texts).split())
    assert len([attrs for attrs in parsed.of("tr") if "data-solver" in attrs]) == len(CASES[case])
    drawn = [attrs for attrs in parsed.of("div") if "data-chart" in attrs]
    assert len(drawn) == len(parsed.specs)
    assert bool(drawn) == ("vegaEmbed=" in text)  # the library is there only where it is needed


def test_rows_of_different_devices_are_in_groups_of_their_own() -> None:
    gpu = cells.cell("gpu", 2, {"a": 0.7, "b": 0.5}, serving=cells.serving(0.1, device="GPU"))
    text = rendered([*cells.matrix(), gpu])
    bodies = re.findall(r"<tbody>\n<tr class=\"group\">.*?</tbody>", text, re.DOTALL)
    assert len(bodies) == 2
    assert ["GPU" in body for body in bodies] == [False, True]
    assert [body.count("data-solver") for body in bodies] == [5, 1]


def test_quoted_tables_stand_apart() -> None:
    records = cells.matrix(False)
    table = leaderboard.build(records)
    quoted = replace(table, title="Table 9", source="arXiv 0000.00000, table 9", quoted=[])
    text = page.render(records, replace(table, quoted=[quoted]))
    parsed = Parsed(text)
    assert "Quoted from arXiv 0000.00000, table 9, not measured here, and in no ranking." in " ".join(
        " ".join(parsed.texts).split()
    )
    assert len([attrs for attrs in parsed.of("tr") if "data-solver" in attrs]) == 5


def test_every_column_of_the_leaderboard_has_a_set(demo_records: list[Record]) -> None:
    found = sets_of(leaderboard.build(demo_records).columns)
    assert OTHER not in found
    assert found["quality"]
    assert not found["removed layers"]


def test_page_is_the_same_each_time_and_not_large(demo: str, demo_records: list[Record]) -> None:
    assert rendered(demo_records) == demo
    assert len(demo.encode()) < 1_400_000


def test_seventy_cells_with_thirty_tasks_stay_a_few_megabytes() -> None:
    scores: dict[str, float | None] = {f"task_{i}": 0.5 for i in range(30)}
    text = rendered([cells.cell(f"s{i % 9}", 1 + i // 9, scores) for i in range(70)])
    assert len(Parsed(text).of("dialog")) == 70
    assert len(text.encode()) < 3_000_000
