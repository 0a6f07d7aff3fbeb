"""Text that a model writes itself: the verb, and what a run does with it."""

from __future__ import annotations

import copy
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import repeat
from bench.records import Record
from bench.store import Store
from bench.suite import matrix, suite
from bench.writing.job import Job
from bench.writing.write import find_start
from replaceme.calibration import Generated
from replaceme.errors import InputError

Call = Callable[..., subprocess.CompletedProcess[str]]
WriteSuite = Callable[..., Path]
OWN = {"tokens": 3000, "seed": 1}
HEALED = {"name": "lstsq", "heal": {"tokens": 1000, "generated": OWN, "max_length": 32}, "as": "healed"}


def rows_of(file: Path) -> list[Any]:
    return [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()]


# ---- what is asked


def job(**changes: Any) -> Job:
    said: dict[str, Any] = {"folder": "m", "texts": "t", "scope": {}, "starts": [[0]], "answers": False}
    said |= {"generated": {"tokens": 100}, "longest": 40, "dtype": "float32"}
    return Job.model_validate(said | changes)


def test_as_many_texts_are_wanted_as_have_the_tokens() -> None:
    assert job().list_wanted({}) == [0, 1, 2]
    assert job().list_wanted({0: 10, 1: 10}) == [*range(10)]  # the others will be as short
    assert job().list_wanted({0: 90, 1: 5, 2: 5, 3: 40}) == [0, 1, 2]
    assert job(limit=2).list_wanted({0: 10, 1: 10}) == [0, 1]
    assert [job(starts=[[4], [5]]).start(i) for i in range(3)] == [[4], [5], [4]]


def test_text_begins_as_the_tokenizer_begins_texts(tokenizer: Any) -> None:
    from tokenizers import normalizers
    from tokenizers.processors import TemplateProcessing

    assert tokenizer.decode(find_start(tokenizer)) == "\n"
    with_bos = copy.deepcopy(tokenizer)
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    assert find_start(with_bos) == [0]
    without = copy.deepcopy(tokenizer)
    without.backend_tokenizer.normalizer = normalizers.Replace("\n", "")
    with pytest.raises(InputError, match="neither a BOS nor a line break"):
        find_start(without)


def test_suite_finds_prompts_and_names_the_text(write_suite: WriteSuite, tmp_path: Path) -> None:
    (tmp_path / "generated").mkdir()
    (tmp_path / "asked.jsonl").write_text('{"q": "Why?"}\n')
    asked = {"dataset": "./asked.jsonl", "column": "q", "generated": OWN}
    solver = {"name": "lstsq", "heal": {"tokens": 1000, **asked}, "as": "healed"}
    path = write_suite(
        prune={"layers": [2], "solvers": ["lstsq", solver]}, calibration={"dataset": "generated"}
    )
    plan = matrix.expand(suite.load(path))
    assert plan.suite.calibration.dataset == "generated"
    (cell,) = (cell for cell in plan.cells if cell.heal)
    assert cell.identity.prune and cell.identity.prune.calibration.generated == Generated()
    assert cell.heal and cell.heal.dataset == str(tmp_path / "asked.jsonl")
    assert cell.identity.heal and cell.identity.heal.text
    assert cell.identity.heal.text.generated == Generated(**OWN)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"generated": {"tokens": 0}}, r"generated\.tokens"),
        ({"generated": {"topp": 1}}, r"generated\.topp: unknown key; did you mean 'top_p'\?"),
        ({"dataset": "builtin:prose", "generated": {}}, "has no rows that could be prompts"),
        ({"dataset": "./none.jsonl", "generated": {}}, "no such file"),
    ],
)
def test_wrong_settings_are_refused_with_their_place(
    said: dict[str, Any], wrong: str, write_suite: WriteSuite
) -> None:
    with pytest.raises(InputError, match=wrong):
        suite.load(write_suite(calibration=said))


@pytest.mark.slow
def test_plan_tells_what_will_be_written(
    call_here: Call, write_suite: WriteSuite, tmp_path: Path
) -> None:
    path = write_suite(
        prune={"layers": [2], "solvers": ["lstsq", HEALED]}, calibration={"dataset": "generated"}
    )
    said = call_here("plan", path, "--out", tmp_path / "out").stdout
    assert "tiny writes 200,000 tokens of its own with vLLM (temperature 1, top_p 1, seed 42)" in said
    assert "tiny writes 3,000 tokens of its own with vLLM (temperature 1, top_p 1, seed 1)" in said
    told = json.loads(call_here("plan", path, "--out", tmp_path / "out", "--json").stdout)
    assert [text["generated"]["tokens"] for text in told["generated"]] == [200_000, 3000]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tokens", "0"], "greater than 0"),
        (["--out", "own.txt"], "does not end in .jsonl"),
        (["--prompts", "builtin:prose"], "has no rows that could be prompts"),
        (["--prompts", "q.jsonl", "--column", "text"], "has no column 'text'"),
        (["--prompts", "long.jsonl", "--column", "q"], "1 of 1 rows cannot be used; row 1: it has"),
        (["--prompts", "none.jsonl"], "no such file"),
        (["--out", "q.jsonl"], "q.jsonl exists; name another file, or use --overwrite"),
    ],
)
def test_verb_refuses_what_cannot_be(
    options: list[str],
    said: str,
    call_here: Call,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text('{"q": "Why?"}\n')
    Path("long.jsonl").write_text(json.dumps({"q": "long " * 500}) + "\n")
    result = call_here("generate", tiny, "--out", "own.jsonl", *options)
    assert result.returncode == 2, result.stdout
    assert said in result.stderr
    assert not Path("own.jsonl").exists()


@pytest.mark.slow
def test_verb_without_vllm_says_how_to_get_it(
    call_here: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.writing.write.engine_version", lambda: None)
    result = call_here("generate", tiny, "--out", tmp_path / "own.jsonl")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(
        "Error: dataset 'generated': vLLM is not installed: run `pip install 'replaceme[vllm]'`"
    )


# ---- what is written


def greedy(folder: Path, ids: list[int], count: int) -> str:
    """What transformers writes, token by token the likeliest."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)[0]
    text: str = tokenizer.decode(found[len(ids) :], skip_special_tokens=True)
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


@pytest.fixture(scope="module")
def decided(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that gives its likeliest token a probability of about 1: nothing is left to chance."""
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path_factory.mktemp("models") / "decided")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] *= 1000
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.slow
def test_text_goes_on_from_a_line_break_as_the_model_does(
    call_here: Call, decided: Path, tokenizer: Any, tmp_path: Path
) -> None:
    settings = ("--tokens", 60, "--max-length", 24)
    result = call_here("generate", decided, "--out", tmp_path / "own.jsonl", *settings)
    assert result.returncode == 0, result.stderr
    start = find_start(tokenizer)
    assert rows_of(tmp_path / "own.jsonl") == ["\n" + greedy(decided, start, 24 - len(start))] * 3


def count_shares(folder: Path, temperature: float, top_p: float) -> dict[str, float]:
    """A text of two tokens → its share of those that say something, by the exact logits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = find_start(tokenizer)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([start])).logits[0, -1]
    chances = (logits.double() / temperature).softmax(0)
    order = chances.argsort(descending=True)
    before = chances[order].cumsum(0) - chances[order]
    shares: dict[str, float] = {}
    for token in order[before < top_p].tolist():
        text = tokenizer.decode([*start, token], skip_special_tokens=True).rstrip(
            "\N{REPLACEMENT CHARACTER}"
        )
        if text.strip():
            shares[text] = shares.get(text, 0.0) + float(chances[token])
    total = sum(shares.values())
    return {text: share / total for text, share in shares.items()}


@pytest.mark.slow
def test_tokens_are_drawn_with_the_chances_that_the_settings_give(
    call_here: Call, tiny: Path, tmp_path: Path
) -> None:
    out, settings = tmp_path / "own.jsonl", ("--temperature", 0.6, "--top-p", 0.8)
    result = call_here("generate", tiny, "--out", out, *settings, "--tokens", 4000, "--max-length", 2)
    assert result.returncode == 0, result.stderr
    rows = rows_of(out)

    def distance(shares: dict[str, float]) -> float:
        texts = {*rows, *shares}
        return sum(abs(rows.count(t) / len(rows) - shares.get(t, 0.0)) for t in texts) / 2

    assert distance(count_shares(tiny, 0.6, 0.8)) < 0.1
    assert distance(count_shares(tiny, 0.6, 1.0)) > 0.15
    assert distance(count_shares(tiny, 1.0, 0.8)) > 0.15


@pytest.mark.slow
def test_prompts_are_answered_as_the_model_does(
    call_here: Call, decided: Path, tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / "q.jsonl").write_text('{"q": "Why?"}\n{"q": "How?"}\n')
    asked = ("--prompts", tmp_path / "q.jsonl", "--column", "q")
    settings = ("--out", tmp_path / "own.jsonl", "--max-length", 24)
    result = call_here("generate", decided, *settings, *asked)
    assert result.returncode == 0, result.stderr
    rows = rows_of(tmp_path / "own.jsonl")
    assert [row[0] for row in rows] == [{"role": "user", "content": q} for q in ("Why?", "How?")]
    for question, answer in rows:
        ids = tokenizer.apply_chat_template([question], return_dict=False)
        said = greedy(decided, ids, 24 - len(ids)).strip()
        assert answer == {"role": "assistant", "content": said}


@pytest.mark.slow
def test_killed_writing_goes_on_and_ends_with_the_same_text(
    call: Call, command: str, tiny: Path, tmp_path: Path
) -> None:
    settings = ["--tokens", "12k", "--max-length", "64"]
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    part = tmp_path / ".broken.jsonl.part"
    assert call("generate", tiny, "--out", whole, *settings).returncode == 0
    begun = subprocess.Popen(
        [command, "generate", str(tiny), "--out", str(broken), *settings],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while begun.poll() is None and (not part.is_file() or part.read_text().count("\n") < 30):
        time.sleep(0.02)
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    assert not broken.exists()
    kept = part.read_text().splitlines()
    result = call("generate", tiny, "--out", broken, *settings)
    assert result.returncode == 0, result.stderr
    assert 30 < len(kept) < len(rows_of(whole))
    assert broken.read_bytes() == whole.read_bytes()
    assert sorted(tmp_path.iterdir()) == [broken, whole]
    rows = rows_of(whole)
    assert len({*rows}) > 0.9 * len(rows)
    assert all(row.strip() for row in rows)


# ---- a run

Finished = tuple[Path, Path, dict[str, Record]]


@pytest.fixture(scope="module")
def finished(
    call_here: Call, small_suite: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """A suite that calibrates and heals on what the model writes; not to be changed."""
    folder = tmp_path_factory.mktemp("own")
    path = folder / "suite.yaml"
    changes = {
        "prune": {"layers": [2], "solvers": ["lstsq", HEALED]},
        "calibration": {"generated": OWN, "samples": 50, "max_length": 32},
    }
    path.write_text(yaml.safe_dump(small_suite | changes))
    result = call_here("run", path, "--out", folder / "out")
    assert result.returncode == 0, result.stderr
    records = {record.label: record for record in Store(folder / "out").all().values()}
    return path, folder / "out", records


@pytest.mark.slow
def test_one_text_is_calibrated_and_healed_on(finished: Finished) -> None:
    _, out, records = finished
    (file,) = (out / "texts").iterdir()
    assert {record.status for record in records.values()} == {"complete"}
    healed = records["healed"]
    assert healed.heal and healed.heal.text["dataset"] == "generated"
    assert healed.heal.text["generated"] == Generated(**OWN).model_dump()
    assert file.name.startswith("generated-")
    assert healed.prune and healed.prune.calibration_tokens and len(rows_of(file)) > 90


@pytest.mark.slow
def test_written_text_is_used_again(finished: Finished, call_here: Call, tmp_path: Path) -> None:
    path, out, _ = finished
    shutil.copytree(out, tmp_path / "out")
    (file,) = (tmp_path / "out" / "texts").iterdir()
    before = file.stat().st_mtime_ns
    for folder in ("records", "edits", "checkpoints"):
        shutil.rmtree(tmp_path / "out" / folder)
    plan = call_here("plan", path, "--out", tmp_path / "out")
    assert "of its own with vLLM" not in plan.stdout
    assert call_here("run", path, "--out", tmp_path / "out").returncode == 0
    assert file.stat().st_mtime_ns == before


@pytest.mark.slow
def test_commands_of_a_record_write_the_same_text(
    finished: Finished, call_here: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generate, prune, heal, _ = repeat.commands(finished[2]["healed"])
    for command in (generate, prune, heal):
        result = call_here(*shlex.split(command)[1:])
        assert result.returncode == 0, result.stderr
    (file,) = (finished[1] / "texts").iterdir()
    (again,) = tmp_path.glob("generated-*.jsonl")
    assert again.read_bytes() == file.read_bytes()
    stems = {record.label: stem for stem, record in Store(finished[1]).all().items()}
    checkpoint = finished[1] / "checkpoints" / stems["healed"] / "model.safetensors"
    assert (tmp_path / "HEALED" / "model.safetensors").read_bytes() == checkpoint.read_bytes()


@pytest.mark.slow
def test_run_without_vllm_has_rows_with_the_reason(
    call_here: Call, write_suite: WriteSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.writing.write.engine_version", lambda: None)
    path = write_suite(prune={"layers": [2], "solvers": ["lstsq", HEALED]})
    assert call_here("run", path, "--out", tmp_path / "out").returncode == 3
    records = {record.label: record for record in Store(tmp_path / "out").all().values()}
    assert records["lstsq"].status == "complete"
    (failure,) = records["healed"].failures
    assert failure.stage == "heal"
    assert failure.error.startswith("dataset 'generated': vLLM is not installed")
