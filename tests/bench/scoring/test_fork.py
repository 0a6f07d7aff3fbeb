"""Forks of every family against plain forwards of the checkpoints that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from bench.scoring import heads
from bench.scoring.fork import Fork
from bench.scoring.forkable import find_obstacle
from bench.scoring.heads import Answer
from bench.scoring.trees import Request, TreeBatch, grow
from replaceme import logits
from replaceme.architectures import TITLES
from replaceme.decoder import Decoder
from replaceme.edit import Edit
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint
from tests.families import (
    ALL_SOLVERS,
    DIAGONAL,
    FAMILIES,
    Family,
    measured,
    near_identity,
    small,
    stored_in,
)

pytestmark = pytest.mark.slow

LAST = 5
TOLERANCE = 1e-4
FORKED = [name for name in FAMILIES if not FAMILIES[name].settings.get("alibi")]
Edits = dict[str, Edit]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def other_weights(model: Any, places: list[tuple[int, str]]) -> dict[tuple[int, str], Tensor]:
    """Other values for some projections of a model: (layer, module) each."""
    generator = torch.Generator().manual_seed(3)
    return {
        (layer, f"{path}.{name}"): values + 0.1 * torch.randn(values.shape, generator=generator)
        for layer, path in places
        for name, values in measured(model)
        .decoder_layers(model)[layer]
        .get_submodule(path)
        .named_parameters()
    }


def edits_of(model: Any, family: Family) -> Edits:
    """Variants with plain removal, transforms and, behind the gap, other weights, as a family allows.

    They share starts of different lengths, and end at different layers.
    """
    diagonal = family in DIAGONAL.values()
    first = measured(model).kinds[0]
    attention, mlp = first.mixer or "self_attn.o_proj", first.projection
    places = [(3, attention), (5, attention)]
    if family in ALL_SOLVERS.values():
        places += [(1, mlp), (3, mlp), (5, mlp)]

    def transformed(*blocks: Block, seed: int) -> Edit:
        return Edit(blocks, {b.start - 1: near_identity(diagonal, seed + b.start) for b in blocks})

    return {
        "baseline": Edit(),
        "removal": Edit((Block(2, 4),)),
        "transform": transformed(Block(2, 4), seed=0),
        "other transform": transformed(Block(2, 4), seed=10),
        "several blocks": transformed(Block(2, 3), Block(4, 5), seed=20),
        "several blocks removed": Edit((Block(2, 3), Block(4, 5))),
        "before the last": transformed(Block(4, 5), seed=30),
        "last layers": transformed(Block(4, 6), seed=40),
        "last layers removed": Edit((Block(4, 6),)),
        "other weights": Edit((Block(2, 3),), weights=other_weights(model, places)),
        "other weights of attention": Edit(
            (Block(2, 3),), weights=other_weights(model, [(1, attention), (5, attention)])
        ),
    }


def questions() -> list[list[Request]]:
    """Requests of a batch of two trees of different sizes, both longer than the sliding windows."""
    words = torch.randint(2, 512, (60,), generator=torch.Generator().manual_seed(6)).tolist()
    long, short, other = words[:20], words[20:31], words[31:36]
    return [
        [
            ask(long, words[36:37]),
            ask(long, words[37:38]),
            ask(long, words[38:43]),
            ask(long, [*words[38:41], 7]),
            ask(long[:14], words[43:46]),
            ask(long[:14], long[14:17]),
        ],
        [ask(short, words[46:48]), ask(other, words[48:51]), ask([], words[:3]), ask(short[:4], [9])],
    ]


def ask(context: list[int], continuation: list[int]) -> Request:
    whole = [0, *context, *continuation]
    return Request(tuple(whole[:-1]), tuple(continuation))


@torch.no_grad()
def plainly(model: Any, request: Request) -> Answer:
    """A request by itself, in one ordinary forward."""
    logits = model(torch.tensor([request.tokens]), use_cache=False).logits[0].float()
    goals = torch.tensor(request.targets)
    logits = logits[-len(goals) :]
    total = logits.log_softmax(-1).gather(1, goals[:, None]).sum()
    return Answer(float(total), bool((logits.argmax(-1) == goals).all()))


@torch.no_grad()
def likeliest(model: Any, request: Request, count: int) -> Request:
    """A request for the ``count`` tokens that a model finds likeliest after the same context."""
    context, _ = request.split
    found: list[int] = []
    for _ in range(count):
        logits = model(torch.tensor([context + found]), use_cache=False).logits
        found.append(int(logits[0, -1].argmax()))
    return ask(context[1:], found)


def batch_of(groups: list[list[Request]]) -> TreeBatch:
    """One tree for each group."""
    return TreeBatch([tree for group in groups for tree in grow(group, 0.0, 2**31)])


@dataclass(frozen=True)
class Case:
    """A family's model with its variants.

    Attributes:
        plain: variant → its checkpoint, loaded.
        groups: requests of a batch; each variant's likeliest continuation is among them.
    """

    edits: Edits
    fork: Fork
    plain: dict[str, Any]
    groups: list[list[Request]]

    @property
    def batch(self) -> TreeBatch:
        return batch_of(self.groups)


@pytest.fixture(scope="module", params=FORKED)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp("forked")
    made = small(family.model_type, **family.settings)
    made.save_pretrained(folder / "intact")
    edits, plain = edits_of(made, family), {}
    for name, edit in edits.items():
        write_checkpoint(folder / "intact", folder / name, edit, None)
        plain[name] = AutoModelForCausalLM.from_pretrained(folder / name).eval()
    groups = questions()
    for number, model in enumerate(plain.values()):
        asked = groups[number % 2][0]
        groups[number % 2].append(likeliest(model, asked, 1 + number % 3))
    model = AutoModelForCausalLM.from_pretrained(folder / "intact").eval()
    return Case(edits, Fork.of(Decoder.of(model), edits, stored_in(torch.float32)), plain, groups)


def close(got: list[Answer], wanted: list[Answer], tolerance: float) -> None:
    assert [answer.greedy for answer in got] == [answer.greedy for answer in wanted]
    for a, b in zip(got, wanted, strict=True):
        assert a.loglikelihood == pytest.approx(b.loglikelihood, abs=tolerance, rel=0)


def test_every_family_without_alibi_is_forked() -> None:
    assert {FAMILIES[name].model_type for name in FORKED} == TITLES.keys()
    assert set(FAMILIES) - set(FORKED) == {"falcon-sequential"}


def test_variants_answer_as_their_checkpoints_do(case: Case) -> None:
    batch = case.batch
    found = case.fork.answers(batch)
    assert found.keys() == case.edits.keys()
    for name, model in case.plain.items():
        wanted = [plainly(model, request) for request in batch.requests]
        assert {answer.greedy for answer in wanted} == {True, False}
        close(found[name], wanted, TOLERANCE)


@torch.no_grad()
def diverge_plainly(intact: Any, model: Any, request: Request) -> list[float]:
    """KL(intact ‖ model) where each target is predicted, of two ordinary forwards, in float64."""
    logs, own = (
        m(torch.tensor([request.tokens]), use_cache=False).logits[0].double().log_softmax(-1)
        for m in (intact, model)
    )
    found: list[float] = (logs.exp() * (logs - own)).sum(-1)[-len(request.targets) :].tolist()
    return found


def test_divergences_are_those_of_two_checkpoints(case: Case) -> None:
    batch = case.batch
    for name, answers in case.fork.answers(batch).items():
        for answer, request in zip(answers, batch.requests, strict=True):
            wanted = diverge_plainly(case.plain["baseline"], case.plain[name], request)
            assert answer.divergences is not None
            assert [*answer.divergences] == pytest.approx(wanted, abs=1e-5)
            assert any(value > 0 for value in answer.divergences) == (name != "baseline")


def test_variants_answer_together_what_they_answer_alone(case: Case) -> None:
    batch = case.batch
    together = case.fork.answers(batch)
    for name in case.edits:
        assert case.fork.only([name]).answers(batch)[name] == together[name]


def test_order_of_variants_does_not_matter(case: Case) -> None:
    batch = case.batch
    backwards = case.fork.only([*reversed(case.edits)]).answers(batch)
    assert backwards == case.fork.answers(batch)


def state(model: Any) -> dict[str, Any]:
    """Everything that a fork changes for a while: weights, forwards, hooks."""
    weights = {name: (p.data_ptr(), p.data.clone()) for name, p in model.named_parameters()}
    modules = {
        name: (module.__dict__.get("forward"), *module._forward_hooks, *module._forward_pre_hooks)
        for name, module in model.named_modules()
    }
    return {"weights": weights, "modules": modules, "layers": len(measured(model).decoder_layers(model))}


def same(model: Any, before: dict[str, Any]) -> None:
    after = state(model)
    assert after["modules"] == before["modules"]
    assert after["layers"] == before["layers"]
    assert after["weights"].keys() == before["weights"].keys()
    for name, (pointer, values) in after["weights"].items():
        assert pointer == before["weights"][name][0]
        assert torch.equal(values, before["weights"][name][1])


def test_model_is_afterwards_what_it_was(case: Case) -> None:
    model = case.fork.decoder.model
    before = state(model)
    case.fork.answers(case.batch)
    same(model, before)


@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon", "mixtral", "gemma2"])
@pytest.mark.parametrize("inside", ["a layer", "an MLP"])
def test_model_is_afterwards_what_it_was_where_a_layer_fails(name: str, inside: str) -> None:
    """At each of the first calls in turn, until none fails."""
    family = FAMILIES[name]
    model = small(family.model_type, **family.settings)
    decoder = Decoder.of(model)
    fork = Fork.of(decoder, edits_of(model, family), stored_in(torch.float32))
    modules = decoder.layers if inside == "a layer" else [*map(decoder.tokenwise_block, range(LAST + 1))]
    before, batch = state(model), batch_of(questions())
    wanted = fork.answers(batch)
    same(model, before)
    calls, failing = 0, None

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise ArithmeticError

    handles = [module.register_forward_hook(count) for module in modules]
    fork.answers(batch)
    assert calls > 20
    hooked = state(model)
    for number in range(1, calls + 1):
        calls, failing = 0, number
        with pytest.raises(ArithmeticError):
            fork.answers(batch)
        same(model, hooked)
    for handle in handles:
        handle.remove()
    same(model, before)
    assert fork.answers(batch) == wanted


@pytest.mark.parametrize("name", ["llama", "mixtral", "gemma2"])
def test_what_variants_share_is_run_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    family = FAMILIES[name]
    model = small(family.model_type, **family.settings)
    fork = Fork.of(Decoder.of(model), edits_of(model, family), stored_in(torch.float32))
    steps: list[int] = []
    step = Decoder.step

    def counted(self: Decoder, layer: int, *rest: Any) -> Tensor:
        steps.append(layer)
        return step(self, layer, *rest)

    monkeypatch.setattr(Decoder, "step", counted)
    fork.answers(batch_of(questions()))
    ways = {way[:i] for way in map(tuple, fork.routes.values()) for i in range(1, len(way) + 1)}
    assert sorted(steps) == sorted(way[-1].layer for way in ways)
    assert len(steps) == fork.steps < sum(map(len, fork.routes.values()))
    assert fork.only(["removal"]).steps == 4 + 4  # and what the intact model does not share with it


def test_windows_hide_what_lies_further_back_in_the_request() -> None:
    """The tree of a request alone is wider than its window where another stands before it."""
    family = FAMILIES["mistral"]
    model = small(family.model_type, **family.settings)
    fork = Fork.of(Decoder.of(model), {"baseline": Edit()}, stored_in(torch.float32))
    first, second = [3] * 20, [3, *range(30, 49)]
    requests = [ask(first, [5]), ask(second, [5]), ask(second[:6], [5])]
    batch = batch_of([requests])
    found = fork.answers(batch)["baseline"]
    close(found, [plainly(model, request) for request in batch.requests], TOLERANCE)
    model.config.sliding_window = None
    without = fork.answers(batch)["baseline"]
    assert abs(found[0].loglikelihood - without[0].loglikelihood) > 0.01


def test_logits_are_held_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES["llama"]
    model = small(family.model_type, **family.settings)
    fork = Fork.of(Decoder.of(model), edits_of(model, family), stored_in(torch.float32))
    batch = batch_of(questions())
    wanted = fork.answers(batch)
    monkeypatch.setattr(logits, "CPU_LOGITS", 3 * 512)
    for name, answers in fork.answers(batch).items():
        close(answers, wanted[name], 1e-5)


def test_changed_weights_are_rounded_as_in_the_checkpoint(tmp_path: Path) -> None:
    """Computed in float32 from a bfloat16 checkpoint, whose pruned one holds bfloat16 too."""
    family = FAMILIES["llama"]
    made = small(family.model_type, **family.settings).bfloat16()
    made.save_pretrained(tmp_path / "intact")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "intact", dtype=torch.float32).eval()
    edits = edits_of(model, family)
    fork = Fork.of(Decoder.of(model), edits, stored_in(torch.bfloat16))
    batch = batch_of(questions())
    found = fork.answers(batch)
    for name in ("transform", "other weights"):
        write_checkpoint(tmp_path / "intact", tmp_path / name, edits[name], None)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32).eval()
        close(found[name], [plainly(plain, request) for request in batch.requests], TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_first_of_two_equal_logits_is_the_likeliest(dtype: torch.dtype) -> None:
    family = FAMILIES["llama"]
    model = small(family.model_type, **family.settings)
    fork = Fork.of(Decoder.of(model), {"baseline": Edit()}, stored_in(dtype))
    best = likeliest(model, ask([5, 6, 7, 8], [0]), 1)
    (token,) = best.targets
    first, second = sorted([token, token - 1 if token > 256 else token + 1])
    model.lm_head.weight.data[[first, second]] = model.lm_head.weight.data[token].clone()
    model.to(dtype)
    context = best.split[0][1:]
    requests = [ask(context, [goal]) for goal in (first, second)]
    assert [plainly(model, request).greedy for request in requests] == [True, False]
    batch = batch_of([requests])
    found = dict(zip(batch.requests, fork.answers(batch)["baseline"], strict=True))
    assert found[requests[0]].greedy
    assert not found[requests[1]].greedy
    assert found[requests[0]].loglikelihood == found[requests[1]].loglikelihood


def test_likelihoods_of_half_precision_are_of_half_precision() -> None:
    family = FAMILIES["llama"]
    model = small(family.model_type, **family.settings).bfloat16()
    fork = Fork.of(Decoder.of(model), {"baseline": Edit()}, stored_in(torch.bfloat16))
    for answer in fork.answers(batch_of(questions()))["baseline"]:
        assert float(torch.tensor(answer.loglikelihood).bfloat16()) == answer.loglikelihood


def test_divergences_of_half_precision_are_as_exact_as_the_logits() -> None:
    """Those of the rounded logits; what lm-eval's log-probabilities round is not in them."""
    first, second = torch.randn(2, 50, 1000, generator=torch.Generator().manual_seed(1)).bfloat16() * 3
    logs, own = (logits.double().log_softmax(-1) for logits in (first, second))
    found = heads.Reference(first).diverge(heads.log_probabilities(second))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), (logs.exp() * (logs - own)).sum(-1), rtol=1e-6, atol=0)
    family = FAMILIES["llama"]
    model = small(family.model_type, **family.settings).bfloat16()
    answers = Fork.of(Decoder.of(model), edits_of(model, family), stored_in(torch.bfloat16)).answers(
        batch_of(questions())
    )
    assert {value for answer in answers["baseline"] for value in answer.divergences or [1]} == {0.0}
    whole = [value for answer in answers["removal"] for value in answer.divergences or []]
    assert len({value for value in whole if float(torch.tensor(value).bfloat16()) != value}) > 10


class OfOnesOwn(LlamaForCausalLM):
    """A model class that is not part of transformers."""


def with_layer_types(model: Any) -> Any:
    model.config.layer_types = ["full_attention"] * 3 + ["chunked_attention"] * 3
    return model


def own_class(model: Any) -> Any:
    return OfOnesOwn(model.config)


@pytest.mark.parametrize(
    ("name", "changed", "reason"),
    [
        ("falcon-sequential", None, "its ALiBi counts places in the sequence, not in the request"),
        ("llama", own_class, "its class is not part of transformers, and may not take masks of trees"),
        ("qwen3", with_layer_types, "its layers have chunked_attention"),
    ],
)
def test_model_that_cannot_be_forked_says_why(
    name: str, changed: Callable[[Any], Any] | None, reason: str
) -> None:
    family = FAMILIES[name]
    model = small(family.model_type, **family.settings)
    assert find_obstacle(changed(model) if changed else model) == reason


def test_model_that_does_not_heed_positions_is_found_on_a_small_one(
    zero_positions: Callable[[], None],
) -> None:
    zero_positions()
    assert (
        find_obstacle(small("llama"))
        == "a small model of its class answers otherwise in one pass than request by request"
    )


def test_families_of_transformers_have_no_obstacle(case: Case) -> None:
    assert find_obstacle(case.fork.decoder.model) is None
