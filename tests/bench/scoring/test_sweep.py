"""Sweeps against one plain forward for each request and variant; interrupted, and out of memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.scoring.answers import Answers, key
from bench.scoring.fork import Fork
from bench.scoring.heads import Answer
from bench.scoring.sweep import CPU_BUDGETS, Sweep
from bench.scoring.trees import Request, Tree, TreeBatch, grow, make_batches
from replaceme.decoder import Decoder
from replaceme.edit import Edit, apply
from replaceme.io.layers import open_layers
from replaceme.room import Room
from replaceme.selection import Block
from tests.families import stored_in

pytestmark = pytest.mark.slow

LAYERS, WIDTH, HIDDEN, VOCABULARY = 5, 64, 96, 40
SIZES = {"mlp.down_proj.weight": (WIDTH, HIDDEN), "self_attn.o_proj.weight": (WIDTH, WIDTH)}
TOLERANCE = 1e-4
Edits = dict[str, Edit]
Broken = Callable[[int], None]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def decoder(make_model: Callable[..., Any]) -> Decoder:
    model = make_model(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
    )
    return Decoder.of(model)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def transformed(block: Block, seed: int) -> Edit:
    transform = torch.eye(WIDTH, dtype=torch.float64) + 0.1 * noise(seed, WIDTH, WIDTH)
    return Edit((block,), {block.start - 1: transform})


def reconstructed(block: Block, layers: list[int], seed: int) -> Edit:
    """Other projections at the gap and in some layers after it."""
    names = [(layer, name) for layer in layers for name in SIZES]
    places = [(block.start - 1, "mlp.down_proj.weight"), *names]
    return Edit(
        (block,),
        weights={
            (layer, name): 0.15 * noise(seed + i, *SIZES[name]) for i, (layer, name) in enumerate(places)
        },
    )


EDITS: Edits = {
    "baseline": Edit(),
    "uidl": Edit((Block(1, 3),)),
    "lstsq": transformed(Block(1, 3), 1),
    "cosine": transformed(Block(2, 3), 2),
    "reconstruct": reconstructed(Block(1, 2), [2, 3, 4], 3),
    "last": reconstructed(Block(4, 5), [], 20),
    "short": Edit((Block(2, 5),)),
}


@st.composite
def requests(draw: st.DrawFn, longest: int = 9) -> Request:
    """Over four tokens, so that requests begin alike, contain each other, and occur twice."""
    whole = draw(st.lists(st.integers(2, 5), min_size=2, max_size=longest + 1))
    goals = draw(st.integers(1, len(whole) - 1))
    return Request(tuple(whole[:-1]), tuple(whole[-goals:]))


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    start = draw(st.integers(1, LAYERS - 1))
    block = Block(start, draw(st.integers(start + 1, LAYERS)))
    after = [*range(block.end, LAYERS)]
    kind = draw(st.sampled_from(["baseline", "uidl", "lstsq", "reconstruct"]))
    seed = draw(st.integers(0, 3))
    if kind == "baseline":
        return Edit()
    if kind == "uidl":
        return Edit((block,))
    if kind == "lstsq":
        return transformed(block, seed)
    return reconstructed(block, sorted(draw(st.sets(st.sampled_from(after)))) if after else [], seed)


request_lists = st.lists(requests(), min_size=1, max_size=14)
budgets = st.sampled_from([1, 8, 20, 50, 4096])
variant_sets = st.lists(edits(), min_size=1, max_size=5).map(
    lambda drawn: {f"variant {number}": edit for number, edit in enumerate(drawn)}
)


def sweep_of(decoder: Decoder, edits: Edits, budget: int | None = 64, path: Path | None = None) -> Sweep:
    answers = Answers(path)
    answers.budget = answers.budget or budget
    return Sweep(Fork.of(decoder, edits, stored_in(torch.float32)), answers)


def swept(decoder: Decoder, edits: Edits, asked: list[Request], budget: int = 64) -> Answers:
    sweep = sweep_of(decoder, edits, budget)
    sweep.run([*edits], asked)
    return sweep.known


def all_of(known: Answers, variants: Edits, asked: list[Request]) -> dict[str, list[Answer]]:
    return {name: [known.of(name, request) for request in asked] for name in variants}


def plain(decoder: Decoder, edit: Edit, asked: list[Request]) -> list[tuple[Answer, bool]]:
    """Answers of a pruned copy of the model, and whether another token is almost as likely as the
    likeliest one somewhere."""
    model = deepcopy(decoder.model)
    apply(model, decoder.architecture, edit)
    found = []
    for request in asked:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([request.tokens])).logits[0, -len(request.targets) :]
        logs = logits.log_softmax(-1)
        goals = torch.tensor(request.targets)
        best, second = logits.topk(2, dim=-1).values.unbind(-1)
        total = float(logs.gather(-1, goals[:, None]).sum())
        greedy = bool((logits.argmax(-1) == goals).all())
        found.append((Answer(total, greedy), bool((best - second).min() < TOLERANCE)))
    return found


def random_requests(count: int, seed: int = 0) -> list[Request]:
    """Distinct requests of a dozen contexts; the longest read 24 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    contexts = [tuple(draw(2, VOCABULARY) for _ in range(draw(4, 21))) for _ in range(12)]
    found: dict[Request, None] = {}
    while len(found) < count:
        targets = tuple(draw(2, VOCABULARY) for _ in range(draw(1, 6)))
        found[Request((*contexts[draw(0, 12)], *targets[:-1]), targets)] = None
    return [*found]


@pytest.fixture(scope="module")
def asked() -> list[Request]:
    return random_requests(64)


@pytest.fixture(scope="module")
def undisturbed(decoder: Decoder, asked: list[Request]) -> dict[str, list[Answer]]:
    """Answers with 64 tokens a batch."""
    return all_of(swept(decoder, EDITS, asked), EDITS, asked)


def close(found: dict[str, list[Answer]], wanted: dict[str, list[Answer]], within: float) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        for one, other in zip(found[name], wanted[name], strict=True):
            assert one.loglikelihood == pytest.approx(other.loglikelihood, abs=within, rel=0)
            assert one.greedy == other.greedy


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], list[Request]]]:
    """The variants and requests of all later calls of ``Fork.answers_to``."""
    calls: list[tuple[list[str], list[Request]]] = []
    answers = Fork.answers_to

    def noted(fork: Fork, chunk: list[TreeBatch]) -> list[dict[str, list[Answer]]]:
        (batch,) = chunk
        calls.append(([*fork.routes], batch.requests))
        return answers(fork, chunk)

    monkeypatch.setattr(Fork, "answers_to", noted)
    return calls


def count_batches(path: Path) -> int:
    """Batches whose answers are in a file."""
    return sum('"requests"' in line for line in path.read_text().splitlines())


def counted_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many batches each later call of ``Fork.answers_to`` has."""
    sizes: list[int] = []
    answers = Fork.answers_to

    def noted(fork: Fork, chunk: list[TreeBatch]) -> list[dict[str, list[Answer]]]:
        sizes.append(len(chunk))
        return answers(fork, chunk)

    monkeypatch.setattr(Fork, "answers_to", noted)
    return sizes


@given(edits=variant_sets, asked=request_lists, budget=budgets)
@settings(max_examples=25)
def test_answers_are_those_of_a_pruned_model_that_reads_one_request_at_a_time(
    decoder: Decoder, edits: Edits, asked: list[Request], budget: int
) -> None:
    known = swept(decoder, edits, asked, budget)
    for name, edit in edits.items():
        for request, (wanted, undecided) in zip(asked, plain(decoder, edit, asked), strict=True):
            found = known.of(name, request)
            assert found.loglikelihood == pytest.approx(wanted.loglikelihood, abs=TOLERANCE, rel=0)
            assert undecided or found.greedy == wanted.greedy


def test_answers_to_longer_requests_are_those_of_a_pruned_model(
    decoder: Decoder, asked: list[Request], undisturbed: dict[str, list[Answer]]
) -> None:
    for name, edit in EDITS.items():
        wanted = plain(decoder, edit, asked)
        assert not any(undecided for _, undecided in wanted)
        close({name: undisturbed[name]}, {name: [answer for answer, _ in wanted]}, TOLERANCE)
    assert len({answers[0].loglikelihood for answers in undisturbed.values()}) == len(EDITS)


def test_divergences_are_those_from_the_intact_model_whoever_is_asked(
    decoder: Decoder, asked: list[Request]
) -> None:
    """Also where the intact model is none of the variants."""
    known = swept(decoder, {name: EDITS[name] for name in ("lstsq", "last")}, asked)
    for name in ("lstsq", "last"):
        changed = deepcopy(decoder.model)
        apply(changed, decoder.architecture, EDITS[name])
        for request in asked:
            with torch.no_grad():
                first, own = (
                    model(input_ids=torch.tensor([request.tokens])).logits[0, -len(request.targets) :]
                    for model in (decoder.model, changed)
                )
            logs = first.double().log_softmax(-1)
            wanted = (logs.exp() * (logs - own.double().log_softmax(-1))).sum(-1)
            assert [*(known.of(name, request).divergences or [])] == pytest.approx(
                wanted.tolist(), abs=1e-5
            )


def test_greedy_continuations_are_found(decoder: Decoder) -> None:
    likeliest: dict[str, Request] = {}
    for name, edit in EDITS.items():
        tokens, model = [5, 6], deepcopy(decoder.model)
        apply(model, decoder.architecture, edit)
        for _ in range(3):
            with torch.no_grad():
                tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        likeliest[name] = Request(tuple(tokens[:-1]), tuple(tokens[2:]))
    known = swept(decoder, EDITS, [*likeliest.values()])
    for name in EDITS:
        for request in likeliest.values():
            assert known.of(name, request).greedy == (request == likeliest[name])


@given(edits=variant_sets, asked=request_lists, budget=budgets, data=st.data())
@settings(max_examples=25)
def test_a_variant_answers_the_same_whatever_others_run_along(
    decoder: Decoder, edits: Edits, asked: list[Request], budget: int, data: st.DataObject
) -> None:
    together = all_of(swept(decoder, edits, asked, budget), edits, asked)
    names = data.draw(st.lists(st.sampled_from([*edits]), min_size=1, unique=True))
    some = {name: edits[name] for name in names}
    assert all_of(swept(decoder, some, asked, budget), some, asked) == {
        name: together[name] for name in names
    }


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_few_predictions_are_the_same_to_the_last_bit_whatever_others_run_along(
    decoder: Decoder, count: int
) -> None:
    for seed in range(4):
        few = random_requests(count, seed)
        together = all_of(swept(decoder, EDITS, few), EDITS, few)
        for name, edit in EDITS.items():
            alone = {name: edit}
            assert all_of(swept(decoder, alone, few), alone, few) == {name: together[name]}


@pytest.mark.parametrize("name", EDITS)
def test_a_variant_answers_the_same_alone(
    decoder: Decoder, asked: list[Request], undisturbed: dict[str, list[Answer]], name: str
) -> None:
    alone = {name: EDITS[name]}
    assert all_of(swept(decoder, alone, asked), alone, asked) == {name: undisturbed[name]}


@pytest.mark.parametrize("lines", [2, 3, 5])
def test_an_interrupted_sweep_goes_on_to_the_same_answers(
    decoder: Decoder,
    asked: list[Request],
    undisturbed: dict[str, list[Answer]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: int,
) -> None:
    path = tmp_path / "answers.jsonl"
    sweep_of(decoder, EDITS, path=path).run([*EDITS], asked)
    whole = [line for line in path.read_text().splitlines() if line]
    assert len(whole) > 6
    path.write_text("\n".join([*whole[:lines], whole[lines][:-20]]))
    calls = counted(monkeypatch)
    sweep_of(decoder, EDITS, budget=None, path=path).run([*EDITS], asked)
    assert len(calls) == len(whole) - lines
    assert all_of(Answers(path), EDITS, asked) == undisturbed


def test_a_sweep_that_has_lost_batches_in_between_computes_only_these(
    decoder: Decoder,
    asked: list[Request],
    undisturbed: dict[str, list[Answer]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "answers.jsonl"
    sweep_of(decoder, EDITS, path=path).run([*EDITS], asked)
    whole = [line for line in path.read_text().splitlines() if line]
    lost = whole[2::2]
    path.write_text("\n".join(line for line in whole if line not in lost))
    calls = counted(monkeypatch)
    sweep = sweep_of(decoder, EDITS, path=path)
    sweep.run([*EDITS], asked)
    assert [[*map(key, batch)] for _, batch in calls] == [json.loads(line)["requests"] for line in lost]
    assert all_of(sweep.known, EDITS, asked) == all_of(Answers(path), EDITS, asked) == undisturbed


def test_new_variants_run_without_those_that_are_known(
    decoder: Decoder,
    asked: list[Request],
    undisturbed: dict[str, list[Answer]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, first = tmp_path / "answers.jsonl", ["lstsq", "baseline", "last"]
    sweep_of(decoder, EDITS, path=path).run(first, asked)
    calls = counted(monkeypatch)
    sweep_of(decoder, EDITS, path=path).run([*EDITS], asked)
    rest = [name for name in EDITS if name not in first]
    assert calls and all(names == rest for names, _ in calls)
    assert all_of(Answers(path), EDITS, asked) == undisturbed


def test_nothing_is_computed_twice(
    decoder: Decoder,
    asked: list[Request],
    undisturbed: dict[str, list[Answer]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "answers.jsonl"
    sweep_of(decoder, EDITS, path=path).run([*EDITS], asked)
    before, calls = path.read_bytes(), counted(monkeypatch)
    again = sweep_of(decoder, EDITS, path=path)
    shares: list[float] = []
    again.run([*EDITS], [*reversed(asked)], shares.append)
    assert not calls
    assert path.read_bytes() == before
    assert again.work.requests == again.work.tokens == again.work.token_layers == 0
    assert again.work.predictions == 0
    assert shares[-1] == 1.0
    assert all_of(again.known, EDITS, asked) == undisturbed


def test_duplicates_are_computed_once(
    decoder: Decoder,
    asked: list[Request],
    undisturbed: dict[str, list[Answer]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = counted(monkeypatch)
    sweep = sweep_of(decoder, EDITS)
    sweep.run([*EDITS], [*asked, *reversed(asked), *asked[:7]])
    assert Counter(request for _, batch in calls for request in batch) == Counter(asked)
    assert sweep.work.requests == len(asked)
    assert all_of(sweep.known, EDITS, asked) == undisturbed


def test_the_model_is_as_it_was_afterwards(decoder: Decoder, asked: list[Request]) -> None:
    before = {name: tensor.clone() for name, tensor in decoder.model.state_dict().items()}
    swept(decoder, EDITS, asked)
    as_before(decoder, before)


def as_before(decoder: Decoder, before: dict[str, Tensor]) -> None:
    """The model has these weights, and nothing left on it that watches or replaces its modules."""
    for name, tensor in decoder.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for module in decoder.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert "forward" not in module.__dict__


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Broken:
    """Leaves memory for so many tokens of a batch, with padding."""

    def leave(tokens: int) -> None:
        answers = Fork.answers_to

        def limited(fork: Fork, chunk: list[TreeBatch]) -> list[dict[str, list[Answer]]]:
            (batch,) = chunk
            if batch.ids.numel() > tokens:
                raise torch.OutOfMemoryError("out of memory")
            return answers(fork, chunk)

        monkeypatch.setattr(Fork, "answers_to", limited)

    return leave


@pytest.mark.parametrize("room", [200, 64, 24])
def test_a_sweep_out_of_memory_goes_on_with_smaller_batches(
    decoder: Decoder,
    asked: list[Request],
    undisturbed: dict[str, list[Answer]],
    tmp_path: Path,
    memory: Broken,
    room: int,
) -> None:
    memory(room)
    path = tmp_path / "answers.jsonl"
    sweep = sweep_of(decoder, EDITS, budget=256, path=path)
    sweep.run([*EDITS], asked)
    close(all_of(sweep.known, EDITS, asked), undisturbed, 1e-5)
    assert sweep.known.budget and sweep.known.budget <= room
    assert sweep.work.requests == len(asked)
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    written = Counter(name for line in lines[1:] for name in line["requests"])
    assert written == Counter(map(key, asked))
    close(all_of(Answers(path), EDITS, asked), undisturbed, 1e-5)


def test_batches_are_halved_until_they_fit(
    decoder: Decoder, asked: list[Request], memory: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(100)
    tried: list[int] = []
    answers = Fork.answers_to

    def noted(fork: Fork, chunk: list[TreeBatch]) -> list[dict[str, list[Answer]]]:
        (batch,) = chunk
        tried.append(batch.ids.numel())
        return answers(fork, chunk)

    monkeypatch.setattr(Fork, "answers_to", noted)
    sweep = sweep_of(decoder, EDITS, budget=4096)
    sweep.run([*EDITS], asked)
    assert tried[0] > 200
    for before, after in pairwise(tried):
        assert before <= 100 or after <= before / 2
    assert sweep.known.budget == [tokens for tokens in tried if tokens > 100][-1] // 2


@given(edits=variant_sets, asked=request_lists, room=st.integers(9, 40))
@settings(max_examples=20)
def test_no_request_is_lost_or_doubled_out_of_memory(
    decoder: Decoder, edits: Edits, asked: list[Request], room: int
) -> None:
    wanted = all_of(swept(decoder, edits, asked), edits, asked)
    with pytest.MonkeyPatch.context() as monkeypatch:
        calls, answers = counted(monkeypatch), Fork.answers_to

        def limited(fork: Fork, chunk: list[TreeBatch]) -> list[dict[str, list[Answer]]]:
            (batch,) = chunk
            if batch.ids.numel() > room:
                raise torch.OutOfMemoryError("out of memory")
            return answers(fork, chunk)

        monkeypatch.setattr(Fork, "answers_to", limited)
        known = swept(decoder, edits, asked, budget=4096)
    assert Counter(request for _, batch in calls for request in batch) == Counter(set(asked))
    for name in edits:
        for request, answer in zip(asked, wanted[name], strict=True):
            assert known.of(name, request).loglikelihood == pytest.approx(
                answer.loglikelihood, abs=1e-5, rel=0
            )


def test_a_single_request_that_is_too_large_is_an_error(
    decoder: Decoder, asked: list[Request], memory: Broken
) -> None:
    longest = max(len(request.tokens) for request in asked)
    memory(longest - 1)
    sweep = sweep_of(decoder, EDITS, budget=1024)
    with pytest.raises(torch.OutOfMemoryError, match=f"a request of {longest} tokens does not fit"):
        sweep.run([*EDITS], asked)


def test_progress_rises_to_all_of_it(decoder: Decoder, asked: list[Request]) -> None:
    shares: list[float] = []
    sweep_of(decoder, EDITS).run([*EDITS], asked, shares.append)
    check_progress(shares)
    assert len(shares) > 4
    assert shares[0] < 0.3


def check_progress(shares: list[float]) -> None:
    assert shares == sorted(set(shares))
    assert shares[0] > 0
    assert shares[-1] == 1.0


@pytest.mark.parametrize("free", [0, 200_000, 10**9])
def test_layers_from_files_answer_the_same_to_the_last_bit(
    decoder: Decoder,
    asked: list[Request],
    undisturbed: dict[str, list[Answer]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
) -> None:
    """As many batches pass a layer together as there is room for."""
    decoder.model.save_pretrained(tmp_path)
    model = open_layers(tmp_path, decoder.architecture, "float32")
    walked = Decoder.of(model, room=Room(lambda: free))
    sizes = counted_chunks(monkeypatch)
    assert all_of(swept(walked, EDITS, asked), EDITS, asked) == undisturbed
    assert (max(sizes) == 1) == (free == 0)
    assert (len(sizes) == 1) == (free == 10**9)


@pytest.mark.parametrize("at", ["between", "inside"])
def test_interrupted_chunks_of_layers_from_files_are_computed_again_and_no_others(
    decoder: Decoder,
    asked: list[Request],
    undisturbed: dict[str, list[Answer]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
) -> None:
    decoder.model.save_pretrained(tmp_path / "model")
    path, chunks = tmp_path / "answers.jsonl", list[int]()
    answers, step = Fork.answers_to, Decoder.step

    def noted(fork: Fork, chunk: list[TreeBatch]) -> list[dict[str, list[Answer]]]:
        if len(chunks) == 2 and at == "between":
            raise KeyboardInterrupt
        chunks.append(len(chunk))
        return answers(fork, chunk)

    def stopped(self: Decoder, layer: int, *args: Any) -> Tensor:
        if len(chunks) == 3 and at == "inside" and layer == 4:
            raise KeyboardInterrupt
        return step(self, layer, *args)

    def sweep() -> Sweep:
        model = open_layers(tmp_path / "model", decoder.architecture, "float32")
        return sweep_of(Decoder.of(model, room=Room(lambda: 320_000)), EDITS, path=path)

    with monkeypatch.context() as patch:
        patch.setattr(Fork, "answers_to", noted)
        patch.setattr(Decoder, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            sweep().run([*EDITS], asked)
    kept = count_batches(path)
    assert kept == sum(chunks[:2]) > 2
    again = counted_chunks(monkeypatch)
    last = sweep()
    last.run([*EDITS], asked)
    assert all_of(last.known, EDITS, asked) == undisturbed
    assert sum(again) == count_batches(path) - kept > 0


@pytest.mark.parametrize("room", [200, 64, 24])
def test_progress_rises_to_all_of_it_out_of_memory(
    decoder: Decoder, asked: list[Request], memory: Broken, room: int
) -> None:
    memory(room)
    shares: list[float] = []
    sweep_of(decoder, EDITS, budget=256).run([*EDITS], asked, shares.append)
    check_progress(shares)


@pytest.mark.parametrize("at", [3, 6, 9, 14])
def test_memory_that_runs_out_inside_a_layer_leaves_the_model_as_it_was(
    decoder: Decoder,
    asked: list[Request],
    undisturbed: dict[str, list[Answer]],
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    copy = Decoder.of(deepcopy(decoder.model))
    step, done = Decoder.step, [0]

    def limited(self: Decoder, *args: Any) -> Tensor:
        done[0] += 1
        if done[0] == at:
            raise torch.OutOfMemoryError("out of memory")
        return step(self, *args)

    monkeypatch.setattr(Decoder, "step", limited)
    known = swept(copy, EDITS, asked, 256)
    assert done[0] > at
    close(all_of(known, EDITS, asked), undisturbed, 1e-5)
    as_before(copy, decoder.model.state_dict())


def test_the_measured_budget_is_one_that_is_tried(decoder: Decoder, asked: list[Request]) -> None:
    sweep = sweep_of(decoder, EDITS, budget=None)
    sweep.run([*EDITS], asked)
    assert sweep.known.budget in CPU_BUDGETS
    first = sweep.known.budget
    sweep.run([*EDITS], random_requests(5, seed=1))
    assert sweep.known.budget == first


@pytest.mark.parametrize(
    ("seconds", "budget"),
    [
        ([5.0, 4.0, 3.0, 2.0, 1.0], 4096),
        ([1.0, 1.0, 1.0, 1.0, 1.0], 256),
        ([1.02, 1.0, 1.0, 1.0, 1.0], 256),
        ([1.04, 1.0, 1.0, 1.0, 1.0], 512),
        ([3.0, 1.0, 2.0, 3.0, 4.0], 512),
        ([3.0, 2.0, 1.5], 1024),
        ([], 256),
    ],
)
def test_the_smallest_budget_with_almost_the_best_time_wins(
    decoder: Decoder,
    asked: list[Request],
    monkeypatch: pytest.MonkeyPatch,
    seconds: list[float],
    budget: int,
) -> None:
    """``seconds`` per tree; there is no memory for the budgets after them."""
    left = [*seconds]

    def time(_sweep: Sweep, trees: list[Tree]) -> float:
        if not left:
            raise torch.OutOfMemoryError("out of memory")
        return left.pop(0) * len(trees)

    monkeypatch.setattr(Sweep, "layer_seconds", time)
    sweep = sweep_of(decoder, EDITS, budget=None)
    trees = sweep.trees(asked) * 40
    assert sum(map(len, trees)) >= CPU_BUDGETS[-1]
    assert sweep.measure_budget(trees) == budget


def test_budgets_beyond_all_there_is_are_not_tried(
    decoder: Decoder, asked: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def time(_sweep: Sweep, trees: list[Tree]) -> float:
        tried.append(sum(map(len, trees)))
        return 1.0

    monkeypatch.setattr(Sweep, "layer_seconds", time)
    sweep = sweep_of(decoder, EDITS, budget=None)
    trees = sweep.trees(asked) * 3
    enough = sum(map(len, trees))
    assert CPU_BUDGETS[1] <= enough < CPU_BUDGETS[-1]
    assert sweep.measure_budget(trees) in CPU_BUDGETS
    assert len(tried) == sum(budget <= enough for budget in CPU_BUDGETS)
    assert max(tried) <= enough
    tried.clear()
    assert sweep.measure_budget(trees[:1]) == CPU_BUDGETS[0]
    assert len(tried) == 1


def test_a_budget_that_is_known_is_not_measured(
    decoder: Decoder, asked: list[Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answers.jsonl"
    sweep_of(decoder, EDITS, budget=96, path=path).run(["uidl"], asked)
    monkeypatch.delattr(Sweep, "measure_budget")
    sweep = sweep_of(decoder, EDITS, budget=None, path=path)
    sweep.run([*EDITS], asked)
    assert sweep.known.budget == 96


def layer_prefixes(edits: Edits, names: list[str]) -> int:
    """Layers that must run, told from the edits: a layer with other weights is one of its own."""
    found: set[tuple[str, ...]] = set()
    for name in names:
        edit = edits[name]
        way: tuple[str, ...] = ()
        removed = {layer for block in edit.blocks for layer in range(block.start, block.end)}
        changed = {*edit.transforms, *(layer for layer, _ in edit.weights)}
        for layer in range(LAYERS):
            if layer not in removed:
                way = (*way, f"{layer} of {name}" if layer in changed else f"{layer}")
                found.add(way)
    return len(found)


def all_layers(edits: Edits, names: list[str]) -> int:
    """Layers that must run, with those of the intact model, from which all are told apart."""
    return layer_prefixes(edits | {"intact": Edit()}, [*names, "intact"])


@given(edits=variant_sets, data=st.data())
@settings(max_examples=50)
def test_steps_are_the_distinct_beginnings_of_the_variants_ways(
    decoder: Decoder, edits: Edits, data: st.DataObject
) -> None:
    fork = Fork.of(decoder, edits, stored_in(torch.float32))
    assert fork.steps == all_layers(edits, [*edits])
    names = data.draw(st.lists(st.sampled_from([*edits]), unique=True))
    assert fork.only(names).steps == all_layers(edits, names)


def test_steps_are_the_layer_calls_of_a_batch(
    decoder: Decoder, asked: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = Decoder.step, [0]

    def noted(self: Decoder, *args: Any) -> Tensor:
        calls[0] += 1
        return step(self, *args)

    monkeypatch.setattr(Decoder, "step", noted)
    fork = Fork.of(decoder, EDITS, stored_in(torch.float32))
    fork.answers(TreeBatch(grow(asked, 0.0, 2**31)))
    assert calls == [fork.steps]


def test_work_is_counted(
    decoder: Decoder, asked: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[TreeBatch] = []
    answers = Fork.answers_to

    def noted(fork: Fork, chunk: list[TreeBatch]) -> list[dict[str, list[Answer]]]:
        (batch,) = chunk
        batches.append(batch)
        return answers(fork, chunk)

    monkeypatch.setattr(Fork, "answers_to", noted)
    sweep, steps = sweep_of(decoder, EDITS), layer_prefixes(EDITS, [*EDITS])
    sweep.run([*EDITS], asked)
    nodes = sum(
        len({request.tokens[:end] for request in tree for end in range(1, len(request.tokens) + 1)})
        for tree in ([*tree.tails] for tree in sweep.trees(asked))
    )
    work = sweep.work
    assert (work.requests, work.tokens, work.token_layers) == (len(asked), nodes, nodes * steps)
    assert work.predictions == len(EDITS) * sum(len(batch.heads[0]) for batch in batches)
    assert work.seconds > 0
    more = random_requests(6, seed=2)
    sweep.run(["uidl"], more)
    assert work.requests == len(asked) + len(more)
    assert work.token_layers == nodes * steps + (work.tokens - nodes) * all_layers(EDITS, ["uidl"])


def test_batches_are_made_of_all_requests_within_the_budget(
    decoder: Decoder, asked: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, sweep = counted(monkeypatch), sweep_of(decoder, EDITS, budget=64)
    sweep.run([*EDITS], asked)
    wanted = [TreeBatch(batch).requests for batch in make_batches(sweep.trees(asked), 64)]
    assert [batch for _, batch in calls] == wanted


def test_no_requests_are_no_work(decoder: Decoder) -> None:
    sweep = sweep_of(decoder, EDITS, budget=None)
    sweep.run([*EDITS], [])
    assert sweep.work.requests == 0


def test_no_variants_are_no_work(decoder: Decoder, asked: list[Request]) -> None:
    sweep = sweep_of(decoder, EDITS)
    shares: list[float] = []
    sweep.run([], asked, shares.append)
    assert sweep.work.requests == 0
    assert shares[-1] == 1.0
