"""Model cards: what the hub reads, what people read, and that nobody's names can break either."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import transformers
import yaml
from huggingface_hub import ModelCard

from bench.card import card
from bench.records import Failure, Record
from bench.store import Store, read_record
from replaceme.calibration import CalibrationData
from replaceme.io.auto import AutoClass
from replaceme.options import PruneOptions
from replaceme.solvers import make_solver
from tests.bench import cells

Call = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[..., None]
DEMO = Path(__file__).parent / "samples" / "demo"
CELL = "SmolLM2-135M-Instruct/6/refit"
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    """Name → record of the demo."""
    found = Store(DEMO).all().values()
    return {f"{r.layers}/{r.label}": r for r in found}


@pytest.fixture
def record(records: dict[str, Record]) -> Record:
    """A pruned cell that a test may change."""
    return records["6/refit"].model_copy(deep=True)


def rendered(record: Record, baseline: Record | None = None) -> str:
    assert record.prune is not None
    return card.render(record, record.prune, baseline)


def rows(text: str) -> dict[str, list[str]]:
    """First cell of a row of a table → the others."""
    lines = [line[1:-1].split("|") for line in text.splitlines() if line.startswith("| ")]
    lines = [[cell.strip() for cell in line] for line in lines]
    return {words[0]: words[1:] for words in lines}


# ---- which cell


def test_card_is_found_by_name_stem_and_path(call_here: Call, record: Record, tmp_path: Path) -> None:
    stem = next(stem for stem, found in Store(DEMO).all().items() if found == record)
    by_name = call_here("card", CELL, "--results", DEMO)
    assert by_name.returncode == 0
    assert by_name.stdout.startswith("---\nlibrary_name: transformers\n")
    path = DEMO / "records" / f"{stem}.json"
    for arguments in ([stem, "--results", DEMO], [path], [CELL, "--results", path]):
        result = call_here("card", *arguments)
        assert result.returncode == 0, result.stderr
        assert f"# {record.model} with 6 decoder layers less" in result.stdout
    assert call_here("card", stem, "--results", DEMO).stdout == by_name.stdout
    assert call_here("card", path).stdout == by_name.stdout
    out = tmp_path / "new" / "README.md"
    assert not call_here("card", CELL, "--results", DEMO, "-o", out).stdout
    assert out.read_text("utf-8") == by_name.stdout


def test_runs_are_searched_where_no_folder_is_named(
    call: Call, refused: Refused, tmp_path: Path
) -> None:
    refused(call("card", CELL, cwd=tmp_path), "runs/ holds no results; name a result folder")
    for name in ("one", "two"):
        shutil.copytree(DEMO / "records", tmp_path / "runs" / name / "records")
        result = call("card", CELL, cwd=tmp_path)
        if name == "one":
            assert result.returncode == 0
    refused(result, f"{CELL} is in runs/one, runs/two; say which with --results")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["SmolLM2-135M-Instruct/6/refti", "--results", DEMO], ["did you mean", f"{CELL}'?"]),
        (["SmolLM2-135M-Instruct/baseline", "--results", DEMO], ["is the intact model"]),
        (["x/1/y", "--results", "nowhere"], ["nowhere does not exist"]),
        ([DEMO / "leaderboard.json"], ["holds no records"]),
        (["records/none.json"], ["holds no records"]),
        (["a\x1b[31m", "--results", DEMO], ["a\\x1b[31m"]),
    ],
    ids=str,
)
def test_wrong_cell_is_refused(
    call_here: Call, refused: Refused, arguments: list[Any], parts: list[str]
) -> None:
    result = call_here("card", *arguments)
    refused(result, *parts)
    assert "\x1b" not in result.stderr


def test_cell_that_failed_to_prune_has_no_card(
    call_here: Call, refused: Refused, record: Record, tmp_path: Path
) -> None:
    failure = {"stage": "prune", "error": "no such data set", "traceback": None}
    broken = record.model_dump(mode="json") | {"prune": None, "failures": [failure], "status": "failed"}
    Store(tmp_path).write("x", Record.model_validate(broken))
    refused(call_here("card", CELL, "--results", tmp_path), "has not been pruned: no such data set")


# ---- what the hub reads


def test_hub_reads_every_metric_back(records: dict[str, Record], record: Record) -> None:
    data = ModelCard(rendered(record, records["0/baseline"])).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation"
    assert {"pruned", "depth-pruning", "replaceme"} == set(data.tags)
    assert data.get("license") is data.get("language") is data.get("base_model") is None
    found = {(r.dataset_name, r.metric_type): r for r in data.eval_results}
    wanted = {
        (name, metric): value
        for name, task in record.quality.items()
        for metric, value in task.metrics.items()
    }
    assert found.keys() == wanted.keys()
    for key, result in found.items():
        assert result.metric_value == wanted[key].value
        assert result.task_type == "text-generation"
        assert result.dataset_args == {"num_few_shot": record.quality[key[0]].num_fewshot}
        assert result.source_url is not None
    first = {r.dataset_name: r.metric_type for r in reversed(data.eval_results)}
    assert first == {name: task.primary for name, task in record.quality.items()}


def test_hub_ids_of_model_and_data_are_named_and_local_ones_are_not(record: Record) -> None:
    assert ModelCard(rendered(record)).data.get("datasets") is None
    record.model_id = "org/base"
    cells.change_model(record, weights="hub:org/base@abc")
    cells.change_calibration(record, data="hub:org/data@main")
    data = ModelCard(rendered(record)).data
    assert (data.base_model, data.datasets) == ("org/base", ["org/data"])
    record.model_id = "/home/someone/secret-folder/base"
    cells.change_calibration(record, data="sha256:abc")
    text = rendered(record)
    assert "secret-folder" not in text
    assert ModelCard(text).data.get("base_model") is None
    assert "a local text (`sha256:abc`)" in text


def test_task_of_lm_eval_names_its_data_set(record: Record) -> None:
    from importlib import metadata

    task = next(iter(record.quality.values())).model_copy(deep=True)
    cells.change_task(task, data=f"lm_eval=={metadata.version('lm_eval')}")
    record.quality = {"winogrande": task}
    results = ModelCard(rendered(record)).data.eval_results
    assert {(r.dataset_config, r.dataset_split) for r in results} == {("winogrande_xl", "validation")}
    assert results[0].dataset_type.endswith("winogrande")
    cells.change_task(task, data="lm_eval==0.0.1")
    results = ModelCard(rendered(record)).data.eval_results
    assert {(r.dataset_type, r.dataset_split) for r in results} == {("winogrande", None)}


def test_values_that_are_not_known_are_left_out(record: Record) -> None:
    name, task = next(iter(record.quality.items()))
    task.metrics[task.primary].value = None
    data = ModelCard(rendered(record)).data
    assert (name, task.primary) not in {(r.dataset_name, r.metric_type) for r in data.eval_results}
    record.quality, record.serving = {}, None
    text = rendered(record)
    assert ModelCard(text).data.eval_results is None
    assert "## Quality" not in text
    assert "## Latency" not in text


# ---- what people read


def test_tables_hold_the_numbers_of_both_models(records: dict[str, Record], record: Record) -> None:
    baseline = records["0/baseline"]
    found = rows(rendered(record, baseline))
    ratios = []
    for name, task in record.quality.items():
        ours, theirs = task.metrics[task.primary], baseline.quality[name].metrics[task.primary]
        assert ours.value is not None
        assert theirs.value is not None
        ratios.append((ours.value, theirs.value))
        assert found[name] == [
            task.primary,
            str(task.num_fewshot),
            f"{task.items:,}",
            f"{100 * theirs.value:.1f} ± {100 * (theirs.stderr or 0):.1f}",
            f"{100 * ours.value:.1f} ± {100 * (ours.stderr or 0):.1f}",
            f"{100 * ours.value / theirs.value:.1f}",
        ]
    ours, theirs = (sum(values) / len(ratios) for values in zip(*ratios, strict=True))
    whole = found["**average**"]
    assert whole[3].startswith(f"{100 * theirs:.1f} ± ")
    assert whole[4].startswith(f"{100 * ours:.1f} ± ")
    assert whole[5] == f"{100 * ours / theirs:.1f}"
    assert record.serving is not None
    assert baseline.serving is not None
    latency = record.serving.result.workloads[0].latency_seconds.p50
    before = baseline.serving.result.workloads[0].latency_seconds.p50
    assert found["1 × 128 → 64 tokens: p50 latency, ms"] == [
        f"{1e3 * before:,.1f}",
        f"{1e3 * latency:,.1f}",
        f"{latency / before:.2f}",
    ]


def test_what_does_not_compare_is_not_compared(records: dict[str, Record], record: Record) -> None:
    alone = rows(rendered(record))
    assert alone["demo_facts"][3] == alone["demo_facts"][5] == "–"
    assert alone["**average**"][3] == alone["**average**"][5] == "–"
    assert alone["1 × 128 → 64 tokens: p50 latency, ms"][0] == "–"
    other = records["0/baseline"].model_copy(deep=True)
    cells.change_task(other.quality["demo_facts"], limit=5)
    assert other.serving is not None
    for process in other.serving.processes:
        object.__setattr__(process, "device", "another")
    object.__setattr__(other.serving, "result", other.serving.processes[0])
    found = rows(rendered(record, other))
    assert found["demo_facts"][3] == "–"
    assert found["demo_grammar"][3] != "–"
    assert found["**average**"][3] == "–"
    assert found["1 × 128 → 64 tokens: p50 latency, ms"][::2] == ["–", "–"]


@pytest.mark.parametrize("loaded_with", get_args(AutoClass))
def test_snippet_loads_with_the_class_that_the_record_names(record: Record, loaded_with: str) -> None:
    assert record.prune
    before = rendered(record)
    record.prune.loaded_with = loaded_with
    text = rendered(record)
    (snippet,) = FENCE.findall(text)
    compile(snippet, "snippet", "exec")
    assert f"model = {loaded_with}.from_pretrained(folder" in snippet
    reads_text = loaded_with == "AutoModelForCausalLM"
    assert (text == before) == reads_text  # the record is of a release that did not say
    reader = "tokenizer = AutoTokenizer" if reads_text else "processor = AutoProcessor"
    assert f"{reader}.from_pretrained(folder)" in snippet
    imported = snippet.splitlines()[0].removeprefix("from transformers import ").split(", ")
    assert all(hasattr(transformers, name) for name in imported)
    assert (ModelCard(text).data.pipeline_tag == "text-generation") == reads_text


def test_warning_failures_and_limits_are_told(records: dict[str, Record]) -> None:
    record = records["9/lstsq"].model_copy(deep=True)
    assert record.prune is not None
    assert record.prune.warning
    cells.change_task(next(iter(record.quality.values())), limit=50)
    record.failures = [Failure(stage="serve", error="the worker died")]
    text = rendered(record)
    assert f"**The fit is not to be trusted:** {record.prune.warning.split('|')[0][:20]}" in text
    assert "Tasks were cut to their first 50 items." in text
    assert "Not measured: serve, for the worker died" in text
    assert "not to be trusted" not in rendered(records["6/refit"])


def test_plain_removal_made_nothing_up(records: dict[str, Record]) -> None:
    text = rendered(records["6/uidl"])
    assert "nothing was put in their place (`uidl`)" in text
    assert "the solver" not in text


def repeated(text: str) -> dict[str, Any]:
    """The file that the card tells to repeat it with."""
    return yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])


@pytest.mark.parametrize("name", ["3/cosine", "6/lstsq", "6/refit", "9/reconstruct", "3/uidl"])
def test_file_to_repeat_it_makes_the_same(records: dict[str, Record], name: str) -> None:
    record = records[name]
    options = PruneOptions.model_validate(repeated(rendered(record)))
    identity = record.identity.canonical()
    assert options.model == record.model_id
    assert options.layers == record.layers
    solver = identity["solver"]
    assert options.solver.solver == make_solver(solver["name"], **solver["parameters"])
    assert options.data.fingerprint() == identity["calibration"]["data"]
    assert options.data.identity() == identity["calibration"]
    assert options.calibration_dtype == identity["calibration_dtype"]
    assert options.selector == identity["selector"]


def test_file_to_repeat_it_names_revisions_and_given_blocks(record: Record) -> None:
    record.model_id = "org/base"
    cells.change_step(record, blocks=[(2, 5), (7, 10)], selector=None, compat="reference")
    cells.change_model(record, weights="hub:org/base@abc", dtype="float16")
    cells.change_calibration(record, data="hub:org/data@def")
    options = PruneOptions.model_validate(repeated(rendered(record)))
    assert options.blocks == [(2, 5), (7, 10)]
    assert options.layers is None
    assert (options.model, options.revision, options.dtype) == ("org/base", "abc", "float16")
    assert (options.calibration, options.calibration_revision) == ("org/data", "def")
    assert options.compat == "reference"


def test_default_calibration_text_is_recognised_by_content(record: Record) -> None:
    cells.change_calibration(record, data=CalibrationData().fingerprint())
    assert repeated(rendered(record))["calibration"] == "builtin:prose"


# ---- hostile names

HOSTILE = (
    "x\n---\nlicense: mit\n```\n<script>alert(1)</script> [a](javascript:1) | `b` \x1b[31m\u202e\"'{{"
)


@pytest.fixture
def hostile(record: Record) -> Record:
    """The record with a hostile text wherever one can stand."""
    content = json.loads(record.model_dump_json())
    content |= {"model": HOSTILE, "model_id": HOSTILE, "label": HOSTILE}
    (step,) = content["identity"]["recipe"]
    step["selector"] = HOSTILE
    step["calibration"] |= {"data": f"sha256:{HOSTILE}", "column": HOSTILE}
    step["solver"]["name"] = HOSTILE
    content["prune"]["warning"] = HOSTILE
    content["failures"] = [{"stage": HOSTILE, "error": HOSTILE, "traceback": None}]
    task = next(iter(content["quality"].values()))
    task["metrics"] = {HOSTILE: task["metrics"][task["primary"]]}
    task["primary"] = HOSTILE
    content["quality"] = {HOSTILE: task}
    content["environment"] = {"packages": {"lm_eval": HOSTILE, "replaceme": HOSTILE}}
    content["serving"]["measured_on"] = HOSTILE
    for process in content["serving"]["processes"]:
        process |= {"engine": HOSTILE, "device": HOSTILE, "dtype": HOSTILE}
    return Record.model_validate(content)


def test_hostile_names_break_neither_the_metadata_nor_the_text(hostile: Record) -> None:
    text = rendered(hostile, hostile)
    found = ModelCard(text)
    assert set(found.data.to_dict()) == {
        "library_name",
        "pipeline_tag",
        "tags",
        "model-index",
    }
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\nlicense: mit" not in text
    body = found.text.splitlines()
    assert sum(line.startswith("```") for line in body) == 6
    assert not [line for line in body if line == "---"]
    heads = ["How it was made", "Quality", "Latency and memory", "Use", "How to repeat it", "Limits"]
    assert [line[3:] for line in body if line.startswith("## ")] == [*heads, "Citation"]


def test_hostile_names_are_text_to_a_markdown_reader(hostile: Record) -> None:
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark").enable("table").render(ModelCard(rendered(hostile, hostile)).text)
    assert "<script" not in html
    assert 'href="javascript' not in html
    assert html.count("<table>") == 3
    assert html.count("<pre>") == 3
    links = {part.split('"')[0] for part in html.split('href="')[1:]}
    assert links == {
        "https://github.com/EleutherAI/lm-evaluation-harness",
        "https://arxiv.org/abs/2505.02819",
    }


def test_card_in_a_checkpoint_says_the_same_of_the_removal(
    call_here: Call, write_suite: Callable[..., Path], tmp_path: Path
) -> None:
    """The harness' card begins as the pruner's, which lies in each checkpoint."""
    path = write_suite(prune={"layers": [2], "solvers": ["lstsq"]})
    assert call_here("run", path, "--out", tmp_path / "out", "--limit", 4).returncode == 0
    (file,) = (tmp_path / "out" / "records").glob("*lstsq*.json")
    own = (tmp_path / "out" / "checkpoints" / file.stem / "README.md").read_text("utf-8")
    (sentence,) = [line for line in own.splitlines() if line.startswith("Layers [")]
    assert sentence in rendered(read_record(file))
    assert "tokens of `builtin:prose`" in sentence
