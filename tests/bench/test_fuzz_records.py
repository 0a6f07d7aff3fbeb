"""Records and scores that are damaged or made up: shown or refused, never a traceback, never a hang."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from bench.store import Store, read_record
from replaceme.errors import InputError
from tests.bench import cells
from tests.bench.fuzzing import NASTY, at, damaged, ends_well, fuzz, json_bytes, mutated, write

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parent / "samples" / "demo"
STEMS = [
    "smollm2-135m-instruct-baseline-21893115",
    "smollm2-135m-instruct-6-lstsq-a6f4bc6d",
    "smollm2-135m-instruct-6-uidl-2bf36d5f",
]
RECORDS = {
    stem: json.loads(read_record(DEMO / "records" / f"{stem}.json").model_dump_json()) for stem in STEMS
}
SAMPLES = {stem: (DEMO / "samples" / f"{stem}.jsonl.gz").read_bytes() for stem in STEMS}
LINES = {stem: [json.loads(x) for x in gzip.decompress(SAMPLES[stem]).splitlines()] for stem in STEMS}
TASKS = list(RECORDS[STEMS[0]]["quality"])
TEXTS = [text for text in NASTY if isinstance(text, str)]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result folder of a baseline and two variants; not to be changed."""
    folder = tmp_path_factory.mktemp("clean")
    for stem in STEMS:
        write(folder / "records" / f"{stem}.json", json_bytes(RECORDS[stem]))
        write(folder / "samples" / f"{stem}.jsonl.gz", SAMPLES[stem])
    return folder


@pytest.fixture(scope="module")
def other(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of it, of which cases replace a file."""
    folder = tmp_path_factory.mktemp("other") / "results"
    shutil.copytree(clean, folder)
    yield folder
    shutil.rmtree(folder)


def loose_ends() -> list[tuple[Any, ...]]:
    """Places where a schema allows many values."""
    names = [*("model", "label", "model_id", "updated", "layers", "failures", "quality", "runtime")]
    names += ["identity", "environment"]
    parts = ["blocks", "distances", "loss", "runner_up", "notes", "warning", "parameters"]
    found: list[tuple[Any, ...]] = [(name,) for name in names] + [("prune", part) for part in parts]
    found += [("serving", "identity"), ("serving", "processes")]
    found += [("serving", "processes", 0, part) for part in ("workloads", "memory", "device")]
    tasks = ("identity", "metrics", "primary", "items", "average", "version")
    return found + [("quality", name, part) for name in TASKS for part in tasks]


@st.composite
def plausible(draw: Any, record: dict[str, Any]) -> dict[str, Any]:
    """A record that is changed where much is allowed, so that it is often valid still."""
    record = copy.deepcopy(record)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(loose_ends()))
        try:
            parent = at(record, path[:-1])
            value = parent[path[-1]]
        except (KeyError, TypeError, IndexError):
            continue
        if path == ("failures",):
            stage = draw(st.sampled_from(["prune", "serve", "score:demo_facts", "score:x", *TEXTS]))
            error, trace = draw(st.sampled_from(TEXTS)), draw(st.sampled_from([None, "\n", *TEXTS]))
            parent["failures"] = [{"stage": stage, "error": error, "traceback": trace}]
        elif isinstance(value, dict | list) and value and draw(st.booleans()):
            parent[path[-1]] = draw(mutated(value, 1))
        else:
            parent[path[-1]] = copy.deepcopy(draw(st.sampled_from(NASTY)))
    return record


@st.composite
def cases(draw: Any) -> tuple[str, bytes]:
    """A file of a result folder and its content."""
    stem = draw(st.sampled_from(STEMS))
    record, scores = f"records/{stem}.json", f"samples/{stem}.jsonl.gz"
    how = draw(st.sampled_from(["plausible"] * 6 + ["mutated"] * 3 + ["bytes", "gzip", "scores"]))
    if how == "plausible":
        return record, json_bytes(draw(plausible(RECORDS[stem])))
    if how == "mutated":
        return record, json_bytes(draw(mutated(RECORDS[stem])))
    if how == "bytes":
        return record, draw(damaged(json_bytes(RECORDS[stem])) | st.binary(max_size=40))
    if how == "gzip":
        return scores, draw(damaged(SAMPLES[stem]) | st.binary(max_size=40))
    return scores, gzip.compress(b"\n".join(map(json_bytes, draw(mutated(LINES[stem])))))


class Changed:
    """A folder with one file replaced, put right again afterwards."""

    def __init__(self, folder: Path, case: tuple[str, bytes]) -> None:
        self.folder, (name, content) = folder, case
        self.path = folder / name
        self.before, self.content = self.path.read_bytes(), content

    def __enter__(self) -> bool:
        """Whether all records can be read."""
        self.path.write_bytes(self.content)
        try:
            Store(self.folder).all()
        except InputError as error:
            assert str(self.path) in str(error)
            assert "\n" not in str(error)
            return False
        return True

    def __exit__(self, *_: Any) -> None:
        self.path.write_bytes(self.before)


KINDS = ["table", "markdown", "csv", "latex", "json", "svg"]
VIEWS = [[], ["--group-by", "solver", "--sort", "-average"], ["--best", "bold", "--published"]]


@fuzz(150, data=st.data())
def test_report_shows_every_readable_record_and_refuses_others(other: Path, data: Any) -> None:
    kind, view = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from(VIEWS))
    with Changed(other, data.draw(cases())) as readable:
        result = ends_well("report", other, "--format", kind, *view, codes={0 if readable else 2})
    if not readable:
        assert str(other) in result.stderr


@fuzz(8, data=st.data())
def test_page_shows_every_readable_record_and_refuses_others(other: Path, data: Any) -> None:
    with Changed(other, data.draw(cases())) as readable:
        ends_well("report", other, "--format", "html", codes={0 if readable else 2})


@fuzz(4, data=st.data())
def test_plots_are_drawn_of_every_readable_record(other: Path, data: Any, tmp_path_factory: Any) -> None:
    out = tmp_path_factory.mktemp("plots")
    with Changed(other, data.draw(cases())) as readable:
        ends_well("plot", other, "--out", out, "--format", "svg", codes={0 if readable else 2})


COMPARISONS = [["--format", "markdown"], ["--json"], ["--all", "--allow-missing"]]


@fuzz(100, data=st.data())
def test_compare_ends_with_a_verdict_or_a_reason(clean: Path, other: Path, data: Any) -> None:
    options, both = data.draw(st.sampled_from(COMPARISONS)), data.draw(st.integers(0, 2))
    pair = [(clean, other), (other, clean), (other, other)][both]
    with Changed(other, data.draw(cases())):
        result = ends_well("compare", *pair, *options, codes={0, 1, 2})
        if "--json" in options and result.exit_code < 2:
            json.loads(result.stdout)


PICKS = [["--min-rp", "50"], ["--prefer", "quality", "--json"], ["--min-task", "demo_facts=20"]]


@fuzz(60, data=st.data())
def test_pick_ends_with_a_choice_or_a_reason(other: Path, data: Any) -> None:
    options = data.draw(st.sampled_from(PICKS))
    with Changed(other, data.draw(cases())):
        ends_well("pick", other, *options, codes={0, 1, 2})


@fuzz(80, data=st.data())
def test_card_is_made_or_refused(other: Path, data: Any) -> None:
    import yaml

    with Changed(other, data.draw(cases())):
        result = ends_well("card", other / "records" / f"{STEMS[1]}.json", codes={0, 2})
    if result.exit_code == 0:
        front = result.stdout.split("---\n")[1]
        assert isinstance(yaml.safe_load(front), dict)


@fuzz(6, data=st.data())
def test_history_tells_of_commits_that_cannot_be_read(
    clean: Path, data: Any, tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("history")
    shutil.copytree(clean, folder / "results")
    options = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]

    def commit() -> None:
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--allow-empty", "-m", "x"]):
            subprocess.run(["git", *options, *words], cwd=folder, check=True, capture_output=True)

    commit()
    name, content = data.draw(cases())
    write(folder / "results" / name, content)
    commit()
    kind = data.draw(st.sampled_from(["table", "markdown", "json"]))
    ends_well("history", folder / "results", "--format", kind, codes={0})


NUMBERS = st.floats() | st.none() | st.integers(-(2**60), 2**60).map(float)


@fuzz(60, data=st.data())
def test_valid_records_of_any_texts_and_numbers_are_rendered(
    data: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("valid")
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
        cells.HOSTILE
    )
    labels = data.draw(st.lists(text, min_size=1, max_size=3, unique=True))
    tasks = data.draw(st.lists(text, min_size=0, max_size=3, unique=True))
    for number, label in enumerate(["baseline", *labels]):
        scores = {task: data.draw(NUMBERS) for task in tasks}
        record = cells.cell(label, 4 if number else 0, scores, model=data.draw(text))
        Store(folder).write(f"cell-{number}", record)
    kind = data.draw(st.sampled_from(KINDS))
    ends_well("report", folder, "--format", kind, codes={0})
