"""Fine-tuning on data: what is learnt of it, the loss, what changes, and how it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from replaceme.calibration import CalibrationData
from replaceme.decoder import Decoder
from replaceme.errors import InputError
from replaceme.healing import HealSettings, Training
from replaceme.healing.course import Course
from replaceme.healing.examples import IGNORED, Example, ExampleText, read_examples
from replaceme.healing.heal import heal
from replaceme.healing.pair import Pair
from replaceme.healing.parts import choose
from replaceme.healing.trained import Trained, open_parameters
from replaceme.io.saved import SavedLayers
from tests.families import FAMILIES, small
from tests.replaceme.test_healing import (
    KINDS,
    PARTS,
    Anywhere,
    differing,
    edit_of,
    values_of,
)

pytestmark = pytest.mark.slow
pytest.importorskip("replaceme.healing.from_trl", exc_type=ImportError)

SFT = {"objective": "sft", "batch_size": 4, "tokens": 1200, "learning_rate": 3e-3}
WITHOUT_DROPOUT = {
    "gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "opt": {"dropout": 0.0, "attention_dropout": 0.0},
}
DAY = date(2024, 7, 26)
MARKED = (
    "{% for m in messages %}<{{ m['role'] }}>"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
CHAT = [
    {"role": "user", "content": "What is the colour of snow?"},
    {"role": "assistant", "content": "It is white."},
    {"role": "user", "content": "And of coal?"},
    {"role": "assistant", "content": "Black."},
]
ANSWERS = ["It is white.<|end|>", "Black.<|end|>"]


@pytest.fixture
def reader(tokenizer: Any, tmp_path: Path) -> Iterator[Callable[..., ExampleText]]:
    """Reads rows as examples: ``reader(rows, template, column="messages")``."""
    own = tokenizer.chat_template

    def read(rows: list[dict[str, Any]], template: str = MARKED, **settings: Any) -> ExampleText:
        tokenizer.chat_template = template
        file = tmp_path / "data.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        told = HealSettings(objective="sft", dataset=str(file), **settings)
        return read_examples(told.text(CalibrationData()), told, tokenizer, DAY)

    yield read
    tokenizer.chat_template = own


def learnt(text: ExampleText, tokenizer: Any, row: int = 0) -> list[str]:
    """What is learnt of a row, run by run."""
    runs: list[list[int]] = []
    before = IGNORED
    for label in text.examples[row].labels:
        if label != IGNORED:
            runs = [*runs, []] if before == IGNORED else runs
            runs[-1].append(label)
        before = label
    return [tokenizer.decode(run) for run in runs]


# ---- what is learnt of the data


@pytest.mark.parametrize("template", [MARKED, UNMARKED], ids=["marked", "unmarked"])
def test_answers_of_a_chat_are_learnt_with_their_ends(
    template: str, reader: Any, tokenizer: Any
) -> None:
    text = reader([{"messages": CHAT}] * 3, template, column="messages")
    assert learnt(text, tokenizer) == ANSWERS
    asked = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    assert text.sequences == [asked] * 3
    whole = reader([{"messages": CHAT}], template, column="messages", loss_on_prompts=True)
    assert whole.examples[0].labels == [IGNORED, *asked[1:]]
    assert whole.hash != reader([{"messages": CHAT}], template, column="messages").hash


def test_completions_of_prompts_are_learnt(reader: Any, tokenizer: Any) -> None:
    rows = [{"question": "Snow is", "answer": " white."}] * 2
    text = reader(rows, prompt="question", column="answer")
    assert learnt(text, tokenizer) == [" white.<|end|>"]
    assert tokenizer.decode(text.sequences[0]) == "Snow is white.<|end|>"
    whole = reader(rows, prompt="question", column="answer", loss_on_prompts=True)
    assert whole.examples[0].learnt == len(whole.sequences[0]) - 1


def test_completion_of_a_chat_is_learnt_and_its_earlier_answers_are_not(
    reader: Any, tokenizer: Any
) -> None:
    text = reader([{"prompt": CHAT[:3], "completion": CHAT[3:]}], prompt="prompt", column="completion")
    assert learnt(text, tokenizer) == ANSWERS[1:]


def test_text_is_learnt_but_for_its_first_token(reader: Any, tokenizer: Any) -> None:
    text = reader([{"text": "Snow is white."}, {"text": ""}])
    ids = tokenizer("Snow is white.<|end|>")["input_ids"]
    assert text.examples[0].ids == ids
    assert text.examples[0].labels == [IGNORED, *ids[1:]]
    assert text.rows and (text.rows.used, text.rows.empty) == (1, 1)


def test_as_many_rows_are_read_as_the_budget_takes(reader: Any) -> None:
    rows = [{"text": f"Snow {i} is white."} for i in range(200)]
    text = reader(rows, tokens=300, max_length=32)
    total = sum(map(len, text.sequences))
    assert 330 <= total < 330 + 32
    assert len(reader(rows, tokens=300, max_length=32, samples=5).sequences) == 5
    assert text.sequences != sorted(text.sequences)
    assert text.sequences[:5] == reader(rows, tokens=300, max_length=32, samples=5).sequences
    assert text.sequences[:5] != reader(rows, max_length=32, samples=5, seed=1).sequences


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        ([{"messages": CHAT}] * 2, {}, r"has no column 'text'\. Its columns are messages"),
        (
            [{"messages": CHAT[:1]}] * 2,
            {"column": "messages"},
            "nothing to learn in its first 1,024 tokens",
        ),
        ([{"messages": CHAT}] * 2, {"column": "messages", "max_length": 4}, "in its first 4 tokens"),
        ([{"text": " "}], {}, "holds no text"),
        ([{"text": "a"}], {"prompt": "question"}, "has no column 'question'"),
        ([{"p": CHAT, "text": "a"}], {"prompt": "p"}, "one is a text, one holds messages"),
    ],
)
def test_data_without_anything_to_learn_are_refused(
    rows: list[dict[str, Any]], settings: dict[str, Any], said: str, reader: Any
) -> None:
    with pytest.raises(InputError, match=said):
        reader(rows, **settings)


# ---- the loss


@pytest.fixture
def pair_of() -> Callable[..., Pair]:
    def make(name: str = "llama", **changes: Any) -> Pair:
        family = FAMILIES[name]
        teacher = Decoder.of(small(family.model_type, **family.settings | changes))
        return Pair.of_edit(teacher, edit_of(teacher))

    return make


def examples(count: int = 40) -> list[Example]:
    """Sequences of different lengths and of few tokens; their first ones are not learnt."""
    chance = torch.Generator().manual_seed(1)
    rows = [torch.randint(20, 28, (6 + i % 7,), generator=chance).tolist() for i in range(count)]
    return [Example.of(row, lambda i: i > 2) for row in rows]


def tuning_of(pair: Pair, tokenizer: Any, training: Training) -> Any:
    from replaceme.healing.sft import FineTuning

    rows = examples()
    return FineTuning(pair, tokenizer, rows[4:], rows[:4], training, max_length=24)


class _StoppedError(Exception):
    """A step has its gradients."""


def first_step(pair: Pair, tokenizer: Any, **settings: Any) -> tuple[list[Example], float, Trained]:
    """The examples of the first step, its loss, and gradients as they were clipped."""
    training = Training(**SFT | settings)
    tuning = tuning_of(pair, tokenizer, training)
    trained = open_parameters(pair, training, choose(pair, training))
    seen: list[float] = []

    class Once(Course):
        def prepare(self, tokens: int, loss: float) -> None:  # noqa: ARG002
            seen.append(loss)
            raise _StoppedError

    with pytest.raises(_StoppedError):
        tuning.train(Once(training, trained, tuning))
    return next(tuning.list_steps()), seen[0], trained


def by_hand(model: Any, rows: list[Example]) -> Tensor:
    """Mean cross entropy of the learnt tokens, each sequence by itself."""
    losses = []
    for example in rows:
        for ids, labels in apart(example):
            logs = model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
            losses += [-logs[i - 1, ids[i]] for i, label in enumerate(labels) if label != IGNORED]
    return torch.stack(losses).mean()


def apart(example: Example) -> Iterator[tuple[list[int], list[int]]]:
    """The sequences that an example was put together from, without what comes first of each."""
    start = 0
    for size in example.parts or (len(example),):
        ids, labels = example.ids[start : start + size], example.labels[start : start + size]
        yield ids, [IGNORED, *labels[1:]]
        start += size


@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate": 2, "checkpointing": True}, {"packing": True, "accumulate": 4}],
    ids=["plain", "split", "packed"],
)
@pytest.mark.parametrize("name", KINDS)
def test_loss_and_gradients_are_those_of_the_learnt_tokens(
    name: str, settings: dict[str, Any], pair_of: Any, tokenizer: Any
) -> None:
    pair = pair_of(name)
    rows, loss, trained = first_step(pair, tokenizer, train="all", **settings)
    assert ("packing" in settings) == any(row.parts for row in rows)
    found = {n: p.grad.clone() for n, p in trained.parameters.items() if p.grad is not None}
    assert len(found) > 5
    pair.student.model.zero_grad()
    whole = by_hand(pair.student.model, rows)
    whole.backward()
    assert loss == pytest.approx(float(whole.detach()), rel=1e-5)
    for parameter_name, gradient in found.items():
        wanted = trained.parameters[parameter_name].grad
        wanted = torch.zeros_like(gradient) if wanted is None else wanted
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_the_loss_of_the_learnt_tokens(
    name: str, packing: bool, pair_of: Any, tokenizer: Any
) -> None:
    pair = pair_of(name, **WITHOUT_DROPOUT.get(name, {}))
    settings = {"packing": packing, "dropout": 0.0}
    if packing and name.startswith(("falcon", "gpt_oss", "opt")):
        with pytest.raises(InputError, match=r"packing: sequences .* see each other in"):
            first_step(pair, tokenizer, **settings)
        return
    rows, loss, _ = first_step(pair, tokenizer, **settings)
    with torch.no_grad():
        assert loss == pytest.approx(float(by_hand(pair.student.model, rows)), rel=1e-4)


def test_held_back_loss_is_that_of_the_learnt_tokens(pair_of: Any, tokenizer: Any) -> None:
    pair = pair_of()
    tuning = tuning_of(pair, tokenizer, Training(**SFT))
    with torch.no_grad():
        wanted = float(by_hand(pair.student.model, list(tuning.held)))
    assert tuning.measure() == pytest.approx(wanted, rel=1e-6)


# ---- training


def test_half_precision_learns_alike(tokenizer: Any) -> None:
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        teacher = Decoder.of(small("llama", **FAMILIES["llama"].settings).to(dtype))
        healed = train(Pair.of_edit(teacher, edit_of(teacher)), tokenizer, train="tail")
        found[dtype] = healed.facts.cross_entropy
        assert teacher.model.dtype == dtype
    one, two = found.values()
    assert two == pytest.approx(one, rel=0.01)


def train(pair: Pair, tokenizer: Any, rows: list[Example] | None = None, **settings: Any) -> Any:
    more = {key: settings.pop(key) for key in ("state", "key", "report") if key in settings}
    found = examples() if rows is None else rows
    text = ExampleText([row.ids for row in found], examples=tuple(found))
    architecture = pair.student.architecture
    places = Anywhere(architecture, SavedLayers(architecture, {}, {}), range(len(pair.kept)))
    return heal(pair, text, Training(**SFT | settings), places, tokenizer=tokenizer, **more)


@pytest.mark.parametrize("part", [*PARTS, "tail", "lora"])
def test_exactly_what_is_trained_changes(part: str, pair_of: Any, tokenizer: Any) -> None:
    pair = pair_of()
    chosen = set(choose(pair, Training(**SFT, train=part)))
    teacher, student = values_of(pair.teacher.model), values_of(pair.student.model)
    healed = train(pair, tokenizer, train=part)
    facts = healed.facts
    assert facts.used and facts.warning is None
    assert not differing(pair.teacher.model, teacher)
    assert differing(pair.student.model, student) == healed.values.keys() == chosen
    assert (facts.objective, facts.divergence) == ("sft", None)
    assert facts.cross_entropy and facts.cross_entropy[1] < 0.98 * facts.cross_entropy[0]
    assert facts.curve[0].held_back == facts.cross_entropy[0]
    assert 1100 < facts.tokens <= 1200
    assert "forward" not in vars(pair.student.model)
    assert not pair.student.model.training


@pytest.mark.parametrize("packing", [False, True])
def test_interrupted_training_goes_on_to_the_same_bytes(
    packing: bool, pair_of: Any, tokenizer: Any, tmp_path: Path
) -> None:
    settings = {"dropout": 0.3, "norms": True, "packing": packing}
    whole = train(pair_of(), tokenizer, **settings)
    told: list[float] = []

    def stop(share: float) -> None:
        told.append(share)
        if share > 0.6:
            raise KeyboardInterrupt

    kept = {"state": tmp_path / "state.safetensors", "key": "a"}
    with pytest.raises(KeyboardInterrupt):
        train(pair_of(), tokenizer, report=stop, **kept, **settings)
    shares: list[float] = []
    resumed = train(pair_of(), tokenizer, report=shares.append, **kept, **settings)
    assert shares[0] > 0.4
    assert all(torch.equal(whole.values[name], values) for name, values in resumed.values.items())
    strip = {"curve": {"__all__": {"seconds"}}, "seconds": True}
    assert resumed.facts.model_dump(exclude=strip) == whole.facts.model_dump(exclude=strip)
    undisturbed = train(pair_of(), tokenizer, **settings | {"dropout": 0.0})
    assert undisturbed.facts.cross_entropy[1] != whole.facts.cross_entropy[1]


def test_training_draws_nothing_from_what_others_draw_from(pair_of: Any, tokenizer: Any) -> None:
    pair = pair_of()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    train(pair, tokenizer, dropout=0.3)
    assert torch.equal(torch.rand(3), wanted)


def test_trl_reports_to_nobody(
    pair_of: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def report(**_: Any) -> None:
        raise AssertionError("something was sent")

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", report)
    train(pair_of(), tokenizer, packing=True)
    assert capfd.readouterr() == ("", "")


def test_fine_tuning_that_makes_it_worse_is_not_used(pair_of: Any, tokenizer: Any) -> None:
    pair = pair_of()
    student = values_of(pair.student.model)
    healed = train(pair, tokenizer, train="all", learning_rate=3.0, warmup=0)
    assert (healed.facts.used, healed.values) == (False, {})
    assert "made nothing better" in healed.facts.warning
    assert healed.facts.cross_entropy[0] == healed.facts.cross_entropy[1]
    assert not differing(pair.student.model, student)


def test_loss_that_is_no_number_stops_and_keeps_the_best(pair_of: Any, tokenizer: Any) -> None:
    pair = pair_of()
    rows = examples()
    rows[0] = Example.of([*rows[0].ids[:3], 511, *rows[0].ids[4:]])
    pair.teacher.model.get_input_embeddings().weight.data[511] = float("nan")
    facts = train(pair, tokenizer, rows, checks=40, seed=3).facts
    assert "the loss was not a number after" in facts.warning
    assert facts.used
    assert 0 < facts.tokens < 1200


def test_tokenizer_and_environment_stay_as_they_were(pair_of: Any, tokenizer: Any) -> None:
    """In a process of its own: trl sets the level of vLLM's log once, when it is imported."""
    train(pair_of(), tokenizer, tokens=500)
    assert tokenizer.pad_token is None
    program = "import os, replaceme.healing.sft; print(os.environ.get('VLLM_LOGGING_LEVEL'))"
    for level in (None, "DEBUG"):
        said = {} if level is None else {"VLLM_LOGGING_LEVEL": level}
        environment = {k: v for k, v in os.environ.items() if k != "VLLM_LOGGING_LEVEL"} | said
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        assert done.stdout.split() == [str(level)], done.stderr


def test_time_is_a_budget_too(pair_of: Any, tokenizer: Any) -> None:
    facts = train(pair_of(), tokenizer, tokens=None, seconds=2.0, checks=2).facts
    assert facts.seconds >= 2.0
    assert facts.tokens > 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens": 20}, r"tokens: 20 are fewer than one step of 4 sequences takes, which is"),
        ({"batch_size": 64}, r"36 sequences are fewer than one step of 64 takes"),
    ],
)
def test_too_little_is_refused(
    settings: dict[str, Any], said: str, pair_of: Any, tokenizer: Any
) -> None:
    with pytest.raises(InputError, match=said):
        train(pair_of(), tokenizer, **settings)


def test_library_that_is_not_installed_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from replaceme.checkpoint import Checkpoint
    from replaceme.healing.examples import read_healing_text

    monkeypatch.setitem(sys.modules, "trl", None)
    settings = HealSettings(objective="sft")
    with pytest.raises(InputError, match=r"needs trl, .* pip install 'replaceme\[heal\]'"):
        read_healing_text(Checkpoint.open(str(tiny)), settings, settings.text(CalibrationData()), DAY)
