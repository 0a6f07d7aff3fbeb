"""``replaceme-bench verify``, and the comparison that every one-pass score starts with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from bench.scoring.answers import Answers
from bench.scoring.float32 import in_float32
from bench.scoring.heads import Answer
from bench.scoring.one_pass import OnePass
from bench.scoring.trees import Request
from bench.scoring.verify import REQUESTS, TOKENS, Agreement, check, sample
from bench.store import Store
from replaceme.decoder import Decoder
from replaceme.edit import Edit
from replaceme.hooks import first, other_values
from replaceme.lengths import Lengths
from replaceme.selection import Block

pytestmark = pytest.mark.slow

SPEAK = """
task: speak
dataset_path: json
dataset_kwargs: {data_files: {test: colours.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {max_gen_toks: 2}
metric_list: [{metric: exact_match}]
"""
SERVE = {"workloads": [{"input_len": 8, "output_len": 4, "batch_size": 1}]}
BLOCK = Block(3, 5)
Call = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- the command


@pytest.fixture(scope="module")
def suite(
    small_suite: dict[str, Any], task_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    shutil.copytree(task_folder, folder / "tasks")
    (folder / "tasks" / "speak.yaml").write_text(SPEAK)
    tasks = ["colours", "endings", "speak"]
    score = {"tasks": tasks, "include_path": "tasks", "generate": "transformers"}
    (folder / "suite.yaml").write_text(yaml.safe_dump(small_suite | {"score": score}))
    return folder / "suite.yaml"


@pytest.fixture(scope="module")
def verified(
    call: Call, suite: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A fresh result folder, and what verifying a cell there printed."""
    out = tmp_path_factory.mktemp("verified") / "out"
    return out, call("verify", suite, "--cell", "tiny/2/lstsq", "--out", out)


def rows(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """First word of a line → the line."""
    return {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}


def test_table_compares_each_task(verified: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    result = verified[1]
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    heading, *lines = result.stdout.splitlines()
    assert heading.split("  ")[0] == "task"
    for column in ("requests", "largest Δ", "greedy differs", "rounding", "metrics"):
        assert column in heading
    assert [line.split()[0] for line in lines] == ["colours", "endings", "speak"]
    spoken = lines[2].split(maxsplit=1)[1].strip()
    assert spoken.startswith("not in one pass: the task asks for generate_until; exact_match")
    assert spoken.endswith("0 of 24 texts differ")
    for line, count in ((lines[0], "48"), (lines[1], "24")):
        _, requests, difference, flips, rounding, *_ = line.split()
        assert requests == count
        assert 0 <= float(difference) < 1e-4
        assert rounding == "–"
        assert flips == "0"


def test_metrics_of_both_ways_are_equal(
    verified: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    table = rows(verified[1])
    for task, names in (("colours", {"acc", "acc_norm"}), ("endings", {"acc", "perplexity"})):
        metrics = table[task].split(maxsplit=5)[5].split("; ")
        assert {text.split()[0] for text in metrics} == names
        for name, ours, theirs in (text.split() for text in metrics):
            exact = name != "perplexity"
            assert float(ours.rstrip(",")) == pytest.approx(float(theirs), rel=0 if exact else 1e-5)


def test_fresh_folder_gets_the_checkpoint_and_no_scores(
    verified: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    (record,) = Store(verified[0]).all().values()
    assert record.label == "lstsq"
    assert record.prune
    assert not record.quality


def test_cell_of_a_finished_run_is_verified_without_changing_it(
    call_here: Call, suite: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert call_here("run", suite, "--out", out, "--only", "*/lstsq").returncode == 0
    before = {path: path.read_bytes() for path in (out / "records").iterdir()}
    result = call_here("verify", suite, "--cell", "tiny/2/lstsq", "--out", out)
    assert result.returncode == 0, result.stderr
    assert rows(result)["colours"].split()[1] == "48"
    assert before == {path: path.read_bytes() for path in (out / "records").iterdir()}


def test_baseline_is_verified_too(
    call_here: Call, suite: Path, verified: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    shutil.copytree(verified[0], tmp_path / "out")
    result = call_here("verify", suite, "--cell", "tiny/baseline", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert {"colours", "endings"} < rows(result).keys()


def test_wrong_answers_are_told_and_exit_with_1(
    call_here: Call,
    suite: Path,
    verified: tuple[Path, subprocess.CompletedProcess[str]],
    zero_positions: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    shutil.copytree(verified[0], tmp_path / "out")
    monkeypatch.setattr("bench.scoring.forkable._try_small", lambda _model: None)
    zero_positions()
    result = call_here("verify", suite, "--cell", "tiny/2/lstsq", "--out", tmp_path / "out")
    assert result.returncode == 1
    assert float(rows(result)["colours"].split()[2]) > 1e-3
    assert "They differ by more than float rounding explains." in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize("name", ["tiny/3/lstsq", "tiny", "lstsq"])
def test_unknown_cell_is_refused_with_the_names(
    call_here: Call, refused: Refused, suite: Path, tmp_path: Path, name: str
) -> None:
    result = call_here("verify", suite, "--cell", name, "--out", tmp_path)
    refused(result, f"--cell {name}", "tiny/baseline, tiny/2/uidl, tiny/2/lstsq")


def test_suite_that_scores_nothing_is_refused(
    call_here: Call, refused: Refused, small_suite: dict[str, Any], tmp_path: Path
) -> None:
    content = {key: value for key, value in small_suite.items() if key != "score"}
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump(content | {"serve": SERVE}))
    result = call_here("verify", suite, "--cell", "tiny/2/lstsq", "--out", tmp_path / "out")
    refused(result, "the suite has no score section, so that there is nothing to verify")


def test_cell_that_cannot_be_pruned_is_refused(
    call_here: Call, suite: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: Any) -> None:
        raise ArithmeticError("no such luck")

    monkeypatch.setattr("bench.run.stages.prune.fit_and_save", fails)
    result = call_here("verify", suite, "--cell", "tiny/2/lstsq", "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "tiny/2/lstsq cannot be pruned: no such luck" in result.stderr


# ---- samples


def requests_of(*lengths: int) -> list[Request]:
    return [
        Request(tuple(range(number, number + length)), (number,))
        for number, length in enumerate(lengths)
    ]


def lengths_of(requests: list[Request]) -> list[int]:
    return [len(request.tokens) for request in requests]


def test_sample_of_few_requests_is_all_of_them() -> None:
    few = requests_of(5, 3, 9)
    assert sample([*few, *few]) == sorted(few, key=lambda request: len(request.tokens))


@pytest.mark.parametrize("count", [REQUESTS, REQUESTS + 1, 100, 1000, 1001])
def test_sample_is_bounded_and_reaches_from_the_shortest_to_the_longest(count: int) -> None:
    found = lengths_of(sample(requests_of(*(1 + i // 4 for i in range(count)))))
    assert REQUESTS // 2 <= len(found) <= REQUESTS
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1, 1 + (count - 1) // 4)


@pytest.mark.parametrize("length", [500, 2000, TOKENS])
def test_sample_has_few_tokens_besides_its_ends(length: int) -> None:
    found = sample(requests_of(*[length] * 50))
    assert len(found) == max(2, min(REQUESTS, TOKENS // length))


def test_longest_request_is_in_the_sample_however_long() -> None:
    assert lengths_of(sample(requests_of(10, 3 * TOKENS, 20, 4 * TOKENS))) == [10, 4 * TOKENS]


def test_sample_has_both_sides_of_every_switch() -> None:
    found = lengths_of(sample(requests_of(*range(1, 400)), Lengths((64, 200))))
    assert {1, 64, 65, 200, 201, 399} <= {*found}
    assert len(found) == REQUESTS


def test_sample_has_requests_that_share_their_beginning() -> None:
    """Else no tree would branch in it."""
    shared = [Request((*range(i, i + 40), 7, choice), (choice,)) for i in range(50) for choice in (1, 2)]
    found = sample(shared)
    assert any(a.tokens[:-1] == b.tokens[:-1] for a in found for b in found if a != b)


# ---- verdicts


def answers(*values: float, greedy: bool = False) -> list[Answer]:
    return [Answer(value, greedy) for value in values]


def test_comparison_holds_the_largest_difference() -> None:
    found = Agreement.of(answers(-1.0, -2.5), answers(-1.25, -2.0))
    assert (found.requests, found.difference, found.flips, found.agree) == (2, 0.5, 0, False)


@pytest.mark.parametrize(
    ("ours", "alone", "agree"),
    [
        ([-3.0], [-3.0], True),
        ([-3.0001], [-3.0], True),
        ([-3.0002], [-3.0], False),
        ([-1000.005], [-1000.0], True),
        ([-1000.02], [-1000.0], False),
        ([-3.0, -8.6], [-3.0, -8.0], False),
        ([float("nan")], [-3.0], False),
    ],
)
def test_differences_agree_that_float32_explains(
    ours: list[float], alone: list[float], agree: bool
) -> None:
    assert Agreement.of(answers(*ours), answers(*alone)).agree == agree


def test_one_flip_is_a_disagreement() -> None:
    ours = [*answers(-1.0, -2.0), Answer(-3.0, True)]
    found = Agreement.of(ours, answers(-1.0, -2.0, -3.0))
    assert (found.difference, found.flips, found.agree) == (0.0, 1, False)


@pytest.mark.parametrize(
    ("ours", "alone", "agree"),
    [
        ([-3.1, -8.0], [-3.0, -8.1], True),
        ([-3.3, -8.0], [-3.0, -8.1], True),
        ([-3.5, -8.5], [-3.0, -8.1], False),  # 0.5 off, where lm-eval is 0.07 off
        ([-3.02, -8.02], [-3.0, -8.0], True),  # the last bits of the numbers
        ([-3.1, -8.1], [-3.0, -8.0], False),
    ],
)
def test_half_precision_may_add_what_its_rounding_explains(
    ours: list[float], alone: list[float], agree: bool
) -> None:
    """Float32 says −3 and −8; both ways may not share an error, for neither is the judge."""
    exact = answers(-3.0, -8.0)
    found = Agreement.of(exact, exact).with_rounding(answers(*ours), answers(*alone), exact, 2**-7)
    assert found.agree == agree


def test_error_that_both_ways_share_in_float32_is_not_hidden_by_rounding() -> None:
    found = Agreement.of(answers(-3.0, -8.7), exact := answers(-3.0, -8.0))
    assert not found.with_rounding(exact, exact, exact, 2**-7).agree


# ---- the check before a pass


@pytest.fixture(scope="module")
def one_pass(tiny: Path) -> OnePass:
    """The small model whole, without layers, and with a transform."""
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    transform = torch.eye(64, dtype=torch.float64) + 0.1 * noise
    edits = {
        "baseline": Edit(),
        "removal": Edit((BLOCK,)),
        "transform": Edit((BLOCK,), {2: transform}),
        "more": Edit((BLOCK,), {2: transform, 6: transform}),
    }
    return OnePass(
        tiny,
        edits,
        saved_in="float32",
        dtype="float32",
        device="cpu",
        batch_size=4,
        answers=Answers(),
    )


@pytest.mark.parametrize("variant", ["baseline", "removal", "transform", "more"])
def test_check_finds_right_answers_right(one_pass: OnePass, variant: str) -> None:
    requests = requests_of(*range(1, 10))
    (found,) = check(one_pass, variant, [requests])
    assert (found.requests, found.flips, found.agree) == (9, 0, True)
    assert found.difference < 1e-4
    assert not one_pass.sweep.known.lacking([], requests)
    assert one_pass.sweep.known.lacking([variant], requests) == [variant]


@pytest.mark.parametrize("variant", ["transform", "more"])
def test_check_compares_the_weights_that_a_checkpoint_in_half_precision_holds(
    tiny: Path, one_pass: OnePass, variant: str
) -> None:
    """A transform merged in float32 and not rounded would differ by far more than float32 does."""
    rounded = OnePass(
        tiny,
        one_pass.edits,
        saved_in="bfloat16",
        dtype="float32",
        device="cpu",
        batch_size=4,
        answers=Answers(),
    )
    requests = requests_of(*range(1, 10))
    (found,) = check(rounded, variant, [requests])
    assert found.agree
    _, whole = one_pass.ask_both_ways(variant, requests)
    _, halved = rounded.ask_both_ways(variant, requests)
    pairs = zip(whole, halved, strict=True)
    assert max(abs(a.loglikelihood - b.loglikelihood) for a, b in pairs) > 1e-3


def test_check_finds_wrong_answers_wrong(one_pass: OnePass, zero_positions: Callable[[], None]) -> None:
    zero_positions()
    (found,) = check(one_pass, "transform", [requests_of(*range(1, 10))])
    assert not found.agree
    assert found.difference > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_check_in_half_precision_judges_in_float32(
    tiny: Path, one_pass: OnePass, dtype: str, zero_positions: Callable[[], None]
) -> None:
    half = OnePass(
        tiny,
        one_pass.edits,
        saved_in=None,
        dtype=dtype,
        device="cpu",
        batch_size=4,
        answers=Answers(),
    )
    before = {name: values.clone() for name, values in half.lm.model.state_dict().items()}
    (found,) = check(half, "more", [requests_of(*range(1, 10))])
    assert found.agree
    assert found.difference < 1e-4
    assert found.rounding
    assert max(found.rounding) > 1e-3
    after = half.lm.model.state_dict()
    assert all(torch.equal(values, after[name]) for name, values in before.items())
    assert {values.dtype for values in after.values()} == {getattr(torch, dtype)}
    zero_positions()
    (found,) = check(half, "more", [requests_of(*range(1, 10))])
    assert not found.agree


def test_layer_that_runs_again_with_other_weights_computes_with_these_in_float32(tiny: Path) -> None:
    model, exact = (AutoModelForCausalLM.from_pretrained(tiny, dtype="bfloat16") for _ in range(2))
    exact.float()
    states = torch.ones(1, 4, model.config.hidden_size)
    angles = model.model.rotary_emb(states, torch.arange(4)[None])

    def run(own: Any, factor: float) -> torch.Tensor:
        layer = own.model.layers[2]
        weight = layer.mlp.down_proj.weight
        with torch.no_grad(), other_values([(weight, weight.data * factor)]):
            return first(layer(states, position_embeddings=angles))

    with in_float32(Decoder.of(model)):
        for factor in (1.0, 2.0, 2.0, 0.5, 1.0):
            assert torch.equal(run(model, factor), run(exact, factor))


def test_variant_that_is_checked_has_the_most_changes(one_pass: OnePass) -> None:
    assert one_pass.most_changed(["baseline", "removal", "transform", "more"]) == "more"
    assert one_pass.most_changed(["baseline", "transform"]) == "transform"
    assert one_pass.most_changed(["baseline"]) == "baseline"
