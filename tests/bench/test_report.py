"""``report``: columns, order, groups, marks and several folders, from the demo's real records."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.records import Record
from bench.render.formats import FORMATS, suffix
from bench.serving import ServingResult

Call = Callable[..., subprocess.CompletedProcess[str]]
DEMO = Path(__file__).parent / "samples" / "demo"


@pytest.fixture
def rows(call_here: Call) -> Callable[..., list[dict[str, Any]]]:
    """The rows of a report in order, each with its group's title and place, and its values' numbers."""

    def rows(*arguments: Any) -> list[dict[str, Any]]:
        result = call_here("report", *arguments, "--format", "json")
        assert result.returncode == 0, result.stderr
        content = json.loads(result.stdout)
        return [
            {key: value["number"] for key, value in row["values"].items()}
            | {
                "label": row["label"],
                "model": row["model"],
                "layers": row["layers"],
                "best": row["best"],
            }
            | {"title": group["title"], "place": group["place"], "folder": group["folder"]}
            for group in content["groups"]
            for row in group["rows"]
        ]

    return rows


Rows = Callable[..., list[dict[str, Any]]]


@pytest.mark.parametrize("key", ["average", "-average", "ppl:demo_lastword", "-disk", "-layers"])
def test_rows_are_sorted_by_a_column(rows: Rows, key: str) -> None:
    name = key.removeprefix("-")
    values = [row[name] for row in rows(DEMO, "--sort", key)]
    assert len(values) == 16
    assert values == sorted(values, reverse=key.startswith("-"))


def test_texts_are_sorted_by_the_alphabet(rows: Rows) -> None:
    labels = [row["label"] for row in rows(DEMO, "--sort", "label")]
    assert labels == sorted(labels)
    assert [row["label"] for row in rows(DEMO, "--sort", "-label")] == sorted(labels, reverse=True)


@pytest.mark.parametrize("key", ["average", "-average"])
def test_unknown_values_come_last_either_way(demo: Any, rows: Rows, key: str) -> None:
    copy = demo("new")
    copy.change("6/refit", lambda record: record.quality.clear())
    found = rows(copy.folder, "--sort", key)
    assert (found[-1]["layers"], found[-1]["label"]) == (6, "refit")


def test_columns_are_those_asked_for_in_that_order(call_here: Call) -> None:
    text = call_here(
        "report", DEMO, "--columns", "rp,label,task,demo_facts,model", "--format", "csv"
    ).stdout
    assert next(csv.reader(io.StringIO(text)))[:8] == [
        *("model", "source", "rp (%)", "label", "task:demo_facts (%)", "task:demo_facts stderr"),
        *("task:demo_grammar (%)", "task:demo_grammar stderr"),
    ]
    terminal = call_here("report", DEMO, "--columns", "label, facts, training_free").stdout
    assert terminal.splitlines()[2].split() == ["variant", "acc_norm", "training-free"]
    assert terminal.splitlines()[6].split() == ["refit", "★", "68.8", "±2.3", "yes"]


def test_notes_define_what_is_shown_and_nothing_else(call_here: Call) -> None:
    text = call_here("report", DEMO, "--columns", "label,average").stdout
    assert "avg: mean of demo_facts (acc_norm), demo_grammar (acc)" in text
    assert "p50" not in text
    assert "loss: nats" not in text
    everything = call_here("report", DEMO).stdout
    assert (
        "tasks: 0-shot, 400 items, task version 1.0: demo_facts acc_norm, demo_grammar acc" in everything
    )
    assert "loss: nats" in everything


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["--columns", "label,avrage"],
            ["no column 'avrage'", "did you mean 'average'?", "Columns are label,"],
        ),
        (["--columns", "label,,average"], ["no column ''"]),
        (["--columns", ""], ["no column ''"]),
        (["--sort", "-speed"], ["--sort: there is no column 'speed'", "did you mean 'speedup'?"]),
        (["--sort", "task"], ["task stands for several columns; name one of task:demo_facts,"]),
        (["--sort", "-"], ["no column ''"]),
    ],
)
def test_unknown_columns_are_refused_with_what_is_allowed(
    call_here: Call, refused: Any, arguments: list[str], parts: list[str]
) -> None:
    refused(call_here("report", DEMO, *arguments), *parts)


@pytest.mark.parametrize(
    ("by", "titles"),
    [
        ("layers", ["intact", "3 layers removed", "6 layers removed", "9 layers removed"]),
        ("solver", ["baseline", "refit", "reconstruct", "lstsq", "cosine", "uidl"]),
        ("none", [""]),
    ],
)
def test_rows_are_grouped(rows: Rows, by: str, titles: list[str]) -> None:
    found = rows(DEMO, "--group-by", by)
    assert list(dict.fromkeys(row["title"] for row in found)) == titles
    assert len(found) == 16
    for row in found:
        expected = {"layers": f"{row['layers']} layers removed", "solver": row["label"], "none": ""}[by]
        assert row["title"] == (expected if by != "layers" or row["layers"] else "intact")


def test_models_in_one_group_are_told_apart_by_a_column(demo: Any, call_here: Call) -> None:
    copy = demo("new")
    for cell in ("baseline", "3/uidl"):
        copy.change(cell, lambda record: setattr(record, "model", "other"))
    assert " model " not in call_here("report", copy.folder).stdout
    text = call_here("report", copy.folder, "--group-by", "none").stdout
    assert text.splitlines()[0].startswith("vllm")  # the device, which all share
    models = [line.split()[0] for line in text.splitlines() if " uidl " in line]
    assert sorted(models) == ["SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct", "other"]


def moved(record: Record, device: str) -> None:
    assert record.serving
    results = [p.model_dump() | {"device": device} for p in record.serving.processes]
    record.serving.processes = [ServingResult.model_validate(result) for result in results]


@pytest.mark.parametrize("by", ["model", "layers", "solver", "none"])
def test_rows_of_different_devices_are_in_no_common_ranking(demo: Any, rows: Rows, by: str) -> None:
    copy = demo("new")
    for cell in ("3/refit", "3/lstsq", "9/uidl"):
        copy.change(cell, lambda record: moved(record, "some GPU"))
    found = rows(copy.folder, "--group-by", by, "--sort", "speedup")
    for row in found:
        on_gpu = (row["layers"], row["label"]) in {(3, "refit"), (3, "lstsq"), (9, "uidl")}
        assert (row["place"] == "vllm 0.32.0+cpu on some GPU") == on_gpu
        assert (row["speedup"] is None) == on_gpu
        assert row["rp"] is not None  # quality does not depend on the device of the latencies
    assert len(found) == 16
    best = [(row["layers"], row["label"]) for row in found if row["best"]]
    assert sorted(best) == [(3, "reconstruct"), (3, "refit"), (6, "refit"), (9, "reconstruct")]


def test_several_folders_stand_one_below_the_other(demo: Any, rows: Rows, call_here: Call) -> None:
    copy = demo("new", "baseline", "3/uidl")
    found = rows(DEMO, copy.folder, "--group-by", "none", "--sort", "-average")
    assert [row["folder"] for row in found] == [*[str(DEMO)] * 16, *[str(copy.folder)] * 2]
    text = call_here("report", DEMO, copy.folder).stdout
    assert text.count(str(copy.folder)) == 1
    assert "older records" not in text
    one = {row["folder"] for row in rows(DEMO)}
    assert one == {""}


@pytest.mark.parametrize(
    ("kind", "best", "shown", "absent"),
    [
        ("table", "star", "refit ★ ", "**"),
        ("table", "bold", "**63.9 ±1.0**", "★"),
        ("table", "none", "63.9 ±1.0 ", "★"),
        ("markdown", "star", "| **refit** ★ | 3 |", "**63.9"),
        ("markdown", "bold", "| **63.9 ±1.0** | **93.7** |", "★"),
        ("markdown", "none", "| refit | 3 |", "★"),
    ],
)
def test_best_is_marked_as_asked(call_here: Call, kind: str, best: str, shown: str, absent: str) -> None:
    text = call_here("report", DEMO, "--format", kind, "--best", best).stdout
    assert shown in text
    assert absent not in text
    legends = {"star": "best avg of its cut", "bold": "bold: best of its cut in each column"}
    for name, legend in legends.items():
        assert (legend in text) == (name == best)


@pytest.mark.parametrize(
    ("options", "best", "legend"),
    [
        ([], {"healed", "reconstruct"}, "cut, of what was trained and of what was not."),
        (["--together"], {"healed"}, "★: best avg of its cut."),
    ],
)
def test_what_was_trained_is_ranked_by_itself_unless_asked(
    call_here: Call, rows: Rows, options: list[str], best: set[str], legend: str
) -> None:
    """The averages of three cuts, healed and not: 63.6 and 63.1, 56.5 and 54.8, 50.4 and 49.6."""
    folder = Path(__file__).parents[2] / "results" / "demo-heal"
    found = [row for row in rows(folder, *options) if row["best"]]
    assert [row["layers"] for row in found] == sorted([3, 6, 9] * len(best))
    assert {row["label"] for row in found} == best
    assert legend in call_here("report", folder, *options, "--format", "markdown").stdout.replace(
        "\n", " "
    )


def test_values_that_all_share_are_not_best(call_here: Call) -> None:
    content = json.loads(call_here("report", DEMO, "--format", "json").stdout)
    rows = content["groups"][0]["rows"]
    marked = {key for row in rows for key, value in row["values"].items() if value["best"]}
    assert marked == {
        *("average", "rp", "loss", "task:demo_facts", "task:demo_grammar", "task:demo_lastword"),
        *("task:demo_retrieval", "task:demo_causes", "ppl:demo_lastword", "ppl:demo_retrieval"),
    }
    assert not any(value["best"] for value in rows[0]["values"].values())  # the baseline


def test_json_has_the_keys_that_are_documented(call_here: Call) -> None:
    content = json.loads(call_here("report", DEMO, "table-1", "--format", "json").stdout)
    assert list(content) == ["format", "columns", "groups", "tasks", "notes", "quoted"]
    assert content["format"] == 1
    assert list(content["columns"][0]) == ["key", "header", "unit", "better"]
    assert list(content["groups"][0]) == ["title", "place", "folder", "rows"]
    row = content["groups"][0]["rows"][0]
    assert list(row) == ["model", "label", "layers", "source", "best", "warning", "failure", "values"]
    assert list(row["values"]["average"]) == ["number", "stderr", "text", "best", "noisy"]
    facts = {"name": "demo_facts", "metric": "acc_norm", "num_fewshot": 0, "version": "1.0"}
    assert content["tasks"][0] == facts | {"items": 400, "average": True, "prompt": None}
    assert list(content["quoted"][0]) == ["title", "source", "columns", "groups", "tasks", "notes"]


@pytest.mark.parametrize("kind", [*FORMATS, "table"])
def test_a_file_holds_what_is_printed(call_here: Call, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "deep" / "report.txt"
    printed = call_here("report", DEMO, "--format", kind).stdout
    written = call_here("report", DEMO, "--format", kind, "-o", path)
    assert (written.returncode, written.stdout) == (0, "")
    assert path.read_text("utf-8") == printed
    refused_folder = call_here("report", DEMO, "--format", kind, "-o", tmp_path)
    assert refused_folder.returncode == 2
    assert "cannot be written" in refused_folder.stderr


def test_run_writes_each_format_under_its_own_suffix() -> None:
    suffixes = {"markdown": "md", "csv": "csv", "latex": "tex", "json": "json", "svg": "svg"}
    assert {name: suffix(name) for name in FORMATS} == suffixes


def test_format_is_added_by_one_file(tmp_path: Path) -> None:
    (tmp_path / "names.py").write_text(
        "def render(table):\n    return ' '.join(row.label for row in table.rows) + '\\n'\n"
    )
    program = (
        f"from bench.render import formats\nformats.__path__.append({str(tmp_path)!r})\n"
        f"from bench.cli import main\nmain(['report', {str(DEMO)!r}, '--format', 'names'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[:2] == ["baseline", "refit"]


def test_committed_results_of_an_older_revision_can_be_reported(call_here: Call) -> None:
    record = next((DEMO / "records").glob("*-6-lstsq-*.json"))
    text = call_here("report", record, "--columns", "label,layers").stdout
    assert [line.split() for line in text.splitlines()[-1:]] == [["lstsq", "6"]]


def test_markdown_tables_have_as_many_cells_in_every_row(call_here: Call) -> None:
    text = call_here("report", DEMO, "published", "--format", "markdown").stdout
    for table in text.split("\n\n"):
        counts = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(counts) <= 1
