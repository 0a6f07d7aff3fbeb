"""Scores of single items against lm-eval's own aggregates: filters, pairs, and odd shapes of results."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import strategies as st

from bench.compare.items import items_of
from bench.records import Metric, Task
from bench.render.formats import FORMATS
from bench.scoring.tasks import PreparedTask, TaskScore, _task_score
from bench.store import Store, read_record
from bench.tasks.catalog import find_task
from bench.tasks.spec import TaskSpec
from replaceme.errors import InputError
from tests.bench import cells
from tests.bench.fuzzing import fuzz

ITEMS = [
    {"text": f"A sentence of {'many ' * (i % 4)}words, number {i}.", "answer": str(i % 3)}
    for i in range(24)
]
FILTERS = [
    {
        "name": "strict-match",
        "filter": [{"function": "regex", "regex_pattern": r"#### (\d+)"}, {"function": "take_first"}],
    },
    {
        "name": "flexible-extract",
        "filter": [{"function": "regex", "regex_pattern": r"(\d+)"}, {"function": "take_first"}],
    },
]
TASKS: dict[str, dict[str, Any]] = {
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": m} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
    "sums": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"]},
        "filter_list": FILTERS,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, ITEMS)))
    for name, changes in TASKS.items():
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "items.jsonl"}}}
        content = {"task": name, **data, "test_split": "test", **changes}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def model() -> Any:
    """Answers from a seed, of which some have the strict form, some hold a number only, some neither."""
    from lm_eval.api.model import LM

    class Seeded(LM):
        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: Any) -> Any:
            chance = random.Random(0)
            return [-len(request.arguments[0]) * (0.5 + chance.random()) for request in requests]

        def generate_until(self, requests: Any) -> Any:
            chance = random.Random(1)
            forms = ["#### {}", "it is {}", "no idea"]
            return [chance.choice(forms).format(chance.randrange(3)) for _ in requests]

    return Seeded()


def scored(tasks: Path, model: Any, name: str) -> TaskScore:
    return PreparedTask(TaskSpec(task=name), find_task(name, [tasks]), None).score(model, bootstraps=10)


def test_filtered_metrics_have_the_scores_of_their_own_filter(tasks: Path, model: Any) -> None:
    found = scored(tasks, model, "sums")
    keys = ["exact_match,strict-match", "exact_match,flexible-extract"]
    assert [*found.metrics] == keys
    assert found.items == len(ITEMS)
    assert found.samples["doc_id"] == list(range(len(ITEMS)))
    answers = model.generate_until(ITEMS)
    strict = [float(a == f"#### {item['answer']}") for a, item in zip(answers, ITEMS, strict=True)]
    flexible = [float(a.endswith(f" {item['answer']}")) for a, item in zip(answers, ITEMS, strict=True)]
    assert [found.samples[key] for key in keys] == [strict, flexible]
    assert strict != flexible
    for key in keys:
        assert sum(found.samples[key]) / len(ITEMS) == pytest.approx(found.metrics[key]["value"])


def test_pairs_give_item_scores_whose_mean_makes_lm_evals_aggregate(tasks: Path, model: Any) -> None:
    found = scored(tasks, model, "rolling")
    logs = model.loglikelihood_rolling([type("R", (), {"arguments": (i["text"],)}) for i in ITEMS])
    words = sum(len(item["text"].split()) for item in ITEMS)
    letters = sum(len(item["text"].encode()) for item in ITEMS)
    expected = {
        "word_perplexity": math.exp(-sum(logs) / words),
        "byte_perplexity": math.exp(-sum(logs) / letters),
        "bits_per_byte": -sum(logs) / letters / math.log(2),
    }
    for name, value in expected.items():
        assert found.metrics[name]["value"] == pytest.approx(value, rel=1e-9)
        assert found.metrics[name]["higher_is_better"] is False
        task = record_of(found, name)
        items = items_of(task, found.samples, "NEW", name)
        assert items.link == ("minus" if name == "bits_per_byte" else "exp")
        assert float(items.metric(items.scores.mean())) == pytest.approx(value, rel=1e-5)


def record_of(found: TaskScore, primary: str) -> Task:
    return Task(
        identity={},
        primary=primary,
        average=True,
        metrics={key: Metric(**metric) for key, metric in found.metrics.items()},
        items=found.items,
        version=found.version,
        num_fewshot=found.num_fewshot,
        seconds=1.0,
    )


NAMES = [
    "acc",
    "exact_match",
    "word_perplexity",
    "bits_per_byte",
    "f1",
    "",
    "a b",
    "acc_stderr",
    "x|y",
    "α",
    "<b>",
    "\x1b[1m",
]
CHAINS = ["none", "strict-match", "a,b", "", "none,none"]
VALUES = st.one_of(
    st.floats(),
    st.integers(-(10**400), 10**400),
    st.booleans(),
    st.none(),
    st.sampled_from(["N/A", "", "0.5", [], [1, 2], (0.5, 0.1), {}, {"a": 1}, math.nan, math.inf]),
    st.sampled_from([np.float32(0.5), np.float64(0.25), np.int64(1), np.bool_(True), np.array([1.0])]),
    st.tuples(st.floats(), st.floats() | st.integers(-3, 3)),
)
RESULTS = st.dictionaries(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(CHAINS)).map(",".join)
    | st.sampled_from(["alias", "name", "sample_len", ""]),
    VALUES,
    max_size=6,
)


@fuzz(120, results=RESULTS, data=st.data())
def test_any_result_of_lm_eval_is_recorded_and_shown_or_refused(
    results: dict[str, Any], data: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    filters = data.draw(st.lists(st.sampled_from(CHAINS), min_size=0, max_size=2, unique=True))
    samples = [
        {"doc_id": doc, "filter": chain, **{name: data.draw(VALUES) for name in NAMES[:4]}}
        for chain in filters
        for doc in range(3)
    ]
    for key in list(results):
        if data.draw(st.booleans()):
            metric, _, chain = key.partition(",")
            results[f"{metric}_stderr,{chain}"] = data.draw(VALUES)
    directions = data.draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from([True, False, None])))
    output = {
        "results": {"t": results},
        "higher_is_better": {"t": directions},
        "samples": {"t": samples},
        "versions": {"t": data.draw(st.sampled_from([1, 1.0, "1", None, "Yaml"]))},
        "n-shot": {"t": data.draw(st.sampled_from([0, 5, None]))},
    }
    try:
        found = _task_score(TaskSpec(task="t"), output, 1.0)
    except InputError as error:
        assert "no metric that is a number" in str(error)
        return
    folder = tmp_path_factory.mktemp("results")
    store, record = Store(folder), cells.cell("a", 4, {})
    record.quality["t"] = record_of(found, found.primary)
    store.write("a", record)
    store.write_samples("a", {"t": found.samples})
    again = read_record(store.path("a"))
    assert again.quality["t"].metrics.keys() == found.metrics.keys()
    assert store.read_samples("a")["t"].keys() == found.samples.keys()
    assert {len(column) for column in found.samples.values()} == {found.items}

    from bench.leaderboard import leaderboard

    for render in FORMATS.values():
        assert render(leaderboard.build([again]))
