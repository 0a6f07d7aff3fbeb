"""The published tables: as printed, quoted apart from what was measured, and checked by recomputing."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.build import build_wheel

from bench.leaderboard import leaderboard, published
from bench.leaderboard.differences import differences
from bench.leaderboard.published_file import Published, folder, load, names
from bench.leaderboard.table import Table
from bench.records import Metric, Record, Task
from bench.render import terminal
from bench.render.formats import FORMATS
from replaceme.errors import InputError
from replaceme.io import yaml_source

Call = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
PAPER = ["race", "winogrande", "piqa", "boolq", "openbookqa", "sciq"]
SINGLE = [name for name in names() if load(name).rows]

# everything in the published tables that contradicts itself by more than rounding
CONTRADICTIONS = {
    "card-llama-3-70b": [
        "Llama-3-70B-Instruct, baseline: average printed .750; mean of the 6 printed tasks .728",
        "Llama-3-70B-Instruct, ReplaceMe (LS): average printed .724; mean of the 6 printed tasks .699",
        "Llama-3-70B-Instruct, ReplaceMe (Cosine): average printed .727; mean of the 6 printed tasks "
        ".704",
    ],
    "table-10": [
        "Llama-3-8B-Instruct, fused into the MLP's down_proj: RP printed 0.905; 0.634 / 0.697 is 0.910",
        "Llama-3-8B-Instruct, separate block on the full hidden state: RP printed 0.913; "
        "0.640 / 0.697 is 0.918",
    ],
}


def test_every_table_with_quality_is_there_with_its_source() -> None:
    numbers = (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 16, 17)
    papers = {f"table-{number}" for number in numbers}
    others = {"card-llama-3.1-8b", "card-llama-3-70b", "readme-llama-2-7b", "spsr", "cospadi"}
    assert set(names()) == papers | others | {"paper-main"}
    for number in numbers:
        assert load(f"table-{number}").source == f"arXiv:2505.02819v4, Table {number}"
    assert all(load(name).source for name in SINGLE)


def test_averages_and_rps_are_those_printed_but_for_the_known_contradictions() -> None:
    found = {name: [*map(str, differences(load(name)))] for name in SINGLE}
    assert {name: texts for name, texts in found.items() if texts} == CONTRADICTIONS


def test_a_mean_that_is_computed_otherwise_agrees_to_the_last_printed_digit() -> None:
    checked, wrong = 0, []
    for path in sorted(folder().glob("*.yaml")):
        content = yaml.safe_load(path.read_text("utf-8"))
        columns = content.get("columns", {})
        for row in content.get("rows", []):
            values = dict(zip(columns, row["values"].split(), strict=True))
            tasks = [
                float(values[key])
                for key, column in columns.items()
                if key.startswith("task:") and column.get("average", True)
            ]
            if len(tasks) < 2:
                continue
            checked += 1
            unit = 10.0 ** -len(values["average"].split(".")[1])
            if abs(statistics.fmean(tasks) - float(values["average"])) > 0.5 * unit + 1e-9:
                wrong.append((path.stem, row["method"]))
    assert checked == 43
    assert wrong == [
        ("card-llama-3-70b", "baseline"),
        ("card-llama-3-70b", "ReplaceMe (LS)"),
        ("card-llama-3-70b", "ReplaceMe (Cosine)"),
    ]


@pytest.mark.parametrize(
    ("table", "index", "printed"),
    [
        ("card-llama-3.1-8b", 0, 0.712),
        ("card-llama-3.1-8b", 1, 0.592),
        ("card-llama-3.1-8b", 2, 0.654),
        ("card-llama-3.1-8b", 3, 0.669),
        ("table-13", 0, 0.6752),
        ("table-13", 2, 0.64432),
        ("table-16", 7, 0.6510),
    ],
)
def test_the_average_of_a_record_with_the_printed_scores_is_the_printed_average(
    table: str, index: int, printed: float
) -> None:
    content = load(table)
    row = content.rows[index]
    scores = {key.removeprefix("task:"): text for key, text in content.printed(row).items()}
    quality = {
        name: Task(
            identity={},
            primary="acc",
            average=name != "lambada_openai",
            metrics={"acc": Metric(value=float(scores[name]), stderr=None, higher_is_better=True)},
            items=1,
            version=None,
            num_fewshot=0,
            seconds=0.0,
        )
        for name in [*PAPER, "lambada_openai"]
        if name in scores
    }
    record = Record(model="m", model_id="m", layers=0, label="x", identity={}, quality=quality)
    average = leaderboard.average(record).number
    assert average == pytest.approx(100 * printed, abs=0.0501)


def all_values(table: Table) -> dict[tuple[str, str], dict[str, str | None]]:
    return {
        (row.model, row.label): {key: value.text for key, value in row.values.items()}
        for row in table.rows
    }


def test_the_main_table_has_the_form_of_the_paper() -> None:
    table = published.table("paper-main")
    keys = [column.key for column in table.columns]
    tasks = [f"task:{name}" for name in [*PAPER, "lambada_openai"]]
    assert keys == ["label", "training_free", "layers", *tasks, "ppl:lambada_openai", "average", "rp"]
    models = [group.title.split(" · ")[0] for group in table.groups]
    assert models == [
        *("Llama-3.1-8B-Instruct", "Llama-3-70B-Instruct", "Llama-2-7B", "Llama-3-8B-Instruct"),
        "Mistral-7B-Instruct-v0.3",
    ]
    rows = all_values(table)
    ours = rows["Llama-3.1-8B-Instruct", "ReplaceMe"]
    assert ours["task:race"] == ".406"
    assert ours["average"] == ".654"
    assert ours["training_free"] == "yes"
    assert rows["Llama-3.1-8B-Instruct", "ReplaceMe + SFT"]["training_free"] == "no"
    cosine = next(r for r in table.rows if r.label == "ReplaceMe (Cosine)")
    assert cosine.values["rp"].number == pytest.approx(
        100 * 0.70367 / 0.72817, abs=0.01
    )  # Table 9: 96.64
    assert cosine.warning is not None
    assert "printed .727; mean of the 6 printed tasks .704" in cosine.warning


@pytest.mark.parametrize("kind", ["table", "markdown", "latex"])
def test_the_main_table_is_printed_without_results(call_here: Call, kind: str) -> None:
    text = call_here("report", "paper-main", "--format", kind).stdout
    plain = text.replace("\\_", "_").replace("\\", "")
    for part in (
        *(
            "Quoted, not measured here",
            "Llama-3.1-8B-Instruct",
            ".654",
            "91.8",
            "arXiv:2505.02819v4, Table 13",
        ),
        *("5-shot: winogrande acc", "Avg-acc: mean of RACE, WinoGrande", "printed .750"),
        "RP: computed here from the means of the printed tasks; the source prints none.",
    ):
        assert part in plain
    assert ("training-free" in text) == (kind != "latex")  # which breaks the header over two lines
    assert "★" not in text
    assert "textbf" not in text


def quoted_with(demo: Any, *arguments: str, call: Call, model: str = "Llama-3.1-8B") -> str:
    copy = demo("new", "baseline", "3/uidl", "3/lstsq")
    for cell in ("baseline", "3/uidl", "3/lstsq"):
        copy.change(cell, lambda record: setattr(record, "model", model))
    result = call("report", copy.folder, *arguments)
    assert result.returncode == 0, result.stderr
    return str(result.stdout)


@pytest.mark.parametrize(
    "model",
    ["Llama-3.1-8B", "Llama-3.1-8B-Instruct", "Meta-Llama-3.1-8B-Instruct", "meta-llama/llama_3.1_8b"],
)
def test_published_rows_of_the_same_model_are_quoted(demo: Any, call_here: Call, model: str) -> None:
    text = quoted_with(demo, "--published", "--format", "json", call=call_here, model=model)
    quoted = json.loads(text)["quoted"]
    assert [table["source"] for table in quoted] == [
        "Hugging Face model cards MTSAIR/Llama3.1-6B-ReplaceMe and MTSAIR/Llama3.1-6B-ReplaceMe-Healed",
        "arXiv:2505.02819v4, Table 9",
    ]
    models = {row["model"] for table in quoted for group in table["groups"] for row in group["rows"]}
    assert models == {"Llama-3.1-8B-Instruct"}


@pytest.mark.parametrize("model", ["Llama-3-8B-x", "Llama-3.18B", "Qwen2.5-7", "SmolLM2-135M"])
def test_rows_of_another_model_are_not_quoted(demo: Any, call_here: Call, model: str) -> None:
    text = quoted_with(demo, "--published", call=call_here, model=model)
    assert "Quoted, not measured here" not in text
    assert f"quoted: no published table has {model}; there are rows of Llama-3-70B-Instruct" in text


@pytest.mark.parametrize("kind", ["table", *FORMATS])
def test_quoted_rows_are_marked_in_every_format_and_never_best(
    demo: Any, call_here: Call, kind: str
) -> None:
    text = quoted_with(demo, "--published", "--format", kind, "--best", "star", call=call_here)
    text = text.replace("&#160;", " ")
    if kind == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["source"] for row in rows[:3]] == ["measured"] * 3
        assert all(row["source"] and row["source"] != "measured" for row in rows[3:])
        assert [row["best"] for row in rows] == ["", "yes", *[""] * (len(rows) - 2)]
        assert rows[3]["average"] == ".712"  # a fraction, as printed; those measured are in percent
    elif kind == "json":
        content = json.loads(text)
        rows = [row for table in content["quoted"] for group in table["groups"] for row in group["rows"]]
        assert all(row["source"] and not row["best"] for row in rows)
        assert not any(value["best"] for row in rows for value in row["values"].values())
        assert all(row["source"] is None for group in content["groups"] for row in group["rows"])
    else:
        measured, _, quoted = text.partition("Quoted, not measured here")
        assert ".712" in quoted
        assert ".712" not in measured
        best = {"latex": r"$\star$"}.get(kind, "★")
        assert best in measured
        assert best not in quoted


@pytest.mark.parametrize("by", ["layers", "solver", "none"])
def test_quoted_rows_are_in_no_ranking(demo: Any, call_here: Call, by: str) -> None:
    arguments = ("--published", "--format", "json", "--group-by", by, "--sort", "-average")
    text = quoted_with(demo, *arguments, call=call_here)
    rows = [row for group in json.loads(text)["groups"] for row in group["rows"]]
    assert len(rows) == 3
    assert all(row["source"] is None for row in rows)


def test_all_published_tables_can_be_printed(call_here: Call) -> None:
    text = call_here("report", "published").stdout
    assert text.count("Quoted, not measured here") == len(SINGLE) == 19
    assert call_here("report", ROOT / "results" / "published").stdout == text


def test_unknown_table_is_refused_with_the_nearest(call_here: Call, refused: Any) -> None:
    refused(call_here("report", "tabel-13"), "did you mean 'table-13'", "Tables are card-llama-3-70b,")
    refused(call_here("report", "table-1", "--sort", "average"), "name a result folder, too")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("1 2 3", "t.yaml:1: the file: a: 3 values for 2 columns."),
        ("1 x", "'x' is no number."),
        ("1 nan", "'nan' is no number."),
        ("1 -2", "'-2' is no number."),
    ],
)
def test_damaged_table_is_refused(tmp_path: Path, values: str, message: str) -> None:
    columns = {"average": {"header": "avg"}, "rp": {"header": "RP"}}
    content = {"title": "t", "source": "s", "columns": columns}
    content |= {"rows": [{"model": "m", "method": "a", "values": values}]}
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=re.escape(message)):
        yaml_source.load(path, Published)


def test_an_average_off_by_more_than_rounding_is_found() -> None:
    content = load("table-13").model_dump()
    for printed, expected in ((".6752", 0), (".6753", 0), (".6754", 1), (".6750", 1)):
        content["rows"][0]["values"] = f".3952 .7427 .7900 .7783 .4400 .9050 3.3973 {printed}"
        assert len(differences(Published.model_validate(content))) == expected


def test_installed_package_has_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    wheel = tmp_path / build_wheel(str(tmp_path))
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from bench.cli import main; main()",
            "report",
            "table-9",
            "--format",
            "csv",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8
    assert (site / "bench" / "published_tables" / "table-9.yaml").is_file()


def test_what_is_printed_stays_as_printed_in_the_terminal() -> None:
    for name in SINGLE:
        content = load(name)
        text = terminal.text(Table([], [], [], quoted=[published.table(name)]))
        for row in content.rows:
            lines = [line for line in text.splitlines() if line.startswith(row.method)]
            printed = [f" {value}" for value in content.printed(row).values()]
            assert any(all(value in line for value in printed) for line in lines)
