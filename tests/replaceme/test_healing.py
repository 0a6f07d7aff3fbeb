"""Distillation: what is shared, where gradients go, what is kept, and how it goes on."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from replaceme import logits
from replaceme.calibration import Batch, CalibrationText
from replaceme.decoder import Decoder
from replaceme.edit import Edit, apply
from replaceme.errors import InputError
from replaceme.healing import Training
from replaceme.healing.distillation import Distillation
from replaceme.healing.heal import heal
from replaceme.healing.order import list_steps
from replaceme.healing.pair import Pair
from replaceme.healing.parts import choose
from replaceme.healing.places import Places
from replaceme.healing.trained import Trained, open_parameters
from replaceme.io.saved import SavedLayers
from replaceme.lengths import ALIKE
from replaceme.selection import Block
from tests.families import FAMILIES, near_identity, small

BLOCK = Block(3, 5)
KINDS = {"llama": "sequential", "gpt_neox": "parallel", "qwen3_moe": "experts", "olmo2": "norm behind"}
SETTINGS = {"tokens": 2000, "batch_size": 4, "train": "all", "learning_rate": 3e-3}
ROWS = [[5, 9, 2, 7, 40, 3, 8], [100, 4, 77], [6, 6, 300, 12, 1]]


def sequences(count: int = 40, length: int = 12) -> list[list[int]]:
    chance = torch.Generator().manual_seed(1)
    return torch.randint(512, (count, length), generator=chance).tolist()


def edit_of(decoder: Decoder) -> Edit:
    """Two layers removed, with a transform where the family takes one."""
    diagonal = decoder.kind(BLOCK.start - 1).norm is not None
    return Edit((BLOCK,), {BLOCK.start - 1: near_identity(diagonal, 3)})


@pytest.fixture
def pair_of() -> Callable[..., Pair]:
    """Makes an exact (float64) teacher of a family and a student of it."""

    def make(name: str = "llama", dtype: torch.dtype = torch.float64) -> Pair:
        family = FAMILIES[name]
        model = small(family.model_type, **family.settings).to(dtype)
        if "moe" in name:
            model.set_experts_implementation("eager")  # the other one takes no float64
        teacher = Decoder.of(model)
        return Pair.of_edit(teacher, edit_of(teacher))

    return make


class Anywhere(Places):
    """Files that take every tensor as it is."""

    def _dtype(self, name: str) -> str | None:  # noqa: ARG002
        return "float64"


def train(pair: Pair, **settings: Any) -> Any:
    more = {key: settings.pop(key) for key in ("state", "key", "report") if key in settings}
    text = settings.pop("text", sequences())
    training = Training(**SETTINGS | settings)
    architecture = pair.student.architecture
    places = Anywhere(architecture, SavedLayers(architecture, {}, {}), range(len(pair.kept)))
    return heal(pair, CalibrationText(text), training, places, **more)


def open_part(pair: Pair, **settings: Any) -> Trained:
    training = Training(**settings)
    return open_parameters(pair, training, choose(pair, training))


def learn(pair: Pair, batch: Batch) -> float:
    distillation = Distillation(pair)
    return distillation.learn(distillation.start([batch]), 1.0)


def values_of(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(model: Any, before: dict[str, Tensor]) -> set[str]:
    now = model.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(now[name], tensor)}


# ---- the pair


@pytest.mark.parametrize("name", KINDS)
def test_student_is_the_pruned_model_and_holds_only_what_differs(name: str, pair_of: Any) -> None:
    pair = pair_of(name)
    teacher = pair.teacher.model
    pruned = copy.deepcopy(teacher)
    apply(pruned, pair.teacher.architecture, edit_of(pair.teacher))
    ids = torch.tensor([ROWS[0]])
    with torch.no_grad():
        assert torch.equal(
            pair.student.model(ids, use_cache=False).logits, pruned(ids, use_cache=False).logits
        )
    own = {id(parameter) for parameter in teacher.parameters()}
    other = [n for n, p in pair.student.model.named_parameters() if id(p) not in own]
    assert other
    assert all(f".{BLOCK.start - 1}." in name for name in other)
    assert pair.kept == (0, 1, 2, 5)
    assert (pair.gaps, pair.shared) == ([2], 2)


def test_model_loaded_by_itself_shares_what_is_the_same(pair_of: Any) -> None:
    made = pair_of("llama")
    loaded = copy.deepcopy(made.student.model)
    pair = Pair.of_models(made.teacher, loaded, Edit((BLOCK,)))
    assert (pair.kept, pair.gaps, pair.shared) == (made.kept, made.gaps, made.shared)
    own, other = pair.student.layers[3].self_attn, made.teacher.layers[5].self_attn
    assert own.q_proj.weight is other.q_proj.weight


def test_plain_removal_shares_all_layers_before_the_gap(pair_of: Any) -> None:
    teacher = pair_of("llama").teacher
    assert Pair.of_edit(teacher, Edit((BLOCK,))).shared == 3
    at_end = Pair.of_edit(teacher, Edit((Block(4, 6),)))
    assert (at_end.gaps, at_end.shared) == ([3], 4)


# ---- gradients


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_shared_layers_give_loss_and_gradients_of_whole_models(
    name: str, checkpointing: bool, pair_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits, "CPU_LOGITS", 512 * 4)  # four tokens at a time
    pair, batch = pair_of(name), Batch.of(ROWS)
    pruned = copy.deepcopy(pair.teacher.model)
    apply(pruned, pair.teacher.architecture, edit_of(pair.teacher))
    trained = open_part(pair, train="all")
    distillation = Distillation(pair, checkpointing)
    loss = distillation.learn(distillation.start([batch]), 1 / 15)

    with torch.no_grad():
        goal = pair.teacher.model(batch.ids, use_cache=False).logits[batch.mask].log_softmax(-1)
    pruned.requires_grad_(True)
    found = pruned(batch.ids, use_cache=False).logits[batch.mask].log_softmax(-1)
    whole = kl_div(found, goal, reduction="sum", log_target=True)
    (whole / 15).backward()

    assert loss == pytest.approx(float(whole.detach()), rel=1e-10)
    gradients = {name: p.grad for name, p in pruned.named_parameters()}
    assert len(trained.parameters) > 5
    for parameter_name, parameter in trained.parameters.items():
        wanted = gradients[parameter_name]
        if wanted is None:  # of an expert that no token went to
            assert parameter.grad is None or not parameter.grad.any()
        else:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-10, atol=1e-10)


LAYERS = [f"model.layers.{i}." for i in (2, 3)]
MATRICES = [
    f"{layer}{name}.weight"
    for layer in LAYERS
    for name in (
        *(f"self_attn.{x}_proj" for x in "qkvo"),
        *(f"mlp.{x}_proj" for x in ("gate", "up", "down")),
    )
]
OUTPUTS = [f"{layer}mlp.down_proj.{x}" for layer in LAYERS for x in ("weight", "bias")]
NORMS = [f"{layer}{x}_layernorm.weight" for layer in LAYERS for x in ("input", "post_attention")]
NORMS += ["model.norm.weight"]
PARTS = {
    "projection": OUTPUTS[:2],
    "mlp": OUTPUTS,
    "all": [
        *MATRICES,
        *NORMS,
        *(f"{layer}mlp.{x}_proj.bias" for layer in LAYERS for x in ("gate", "up", "down")),
        "lm_head.weight",
    ],
}


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_gradients_reach_what_is_trained_and_nothing_else(part: str, norms: bool, pair_of: Any) -> None:
    pair = pair_of("llama")
    open_part(pair, train=part, norms=norms)
    learn(pair, Batch.of(ROWS))
    named = pair.student.model.named_parameters()
    reached = {name for name, p in named if p.grad is not None and p.grad.any()}
    assert reached == {*PARTS[part], *(NORMS if norms else [])}
    assert all(parameter.grad is None for parameter in pair.teacher.model.parameters())


def test_tail_is_the_last_three_layers_and_the_head(pair_of: Any) -> None:
    pair = pair_of("llama")
    names = choose(pair, Training(train="tail"))
    assert "lm_head.weight" in names
    assert {int(name.split(".")[2]) for name in names if ".layers." in name} == {1, 2, 3}
    open_part(pair, train="tail")
    assert Distillation(pair).shared == 1


def test_tied_head_is_left_as_it_is() -> None:
    teacher = Decoder.of(small("llama", **FAMILIES["llama"].settings | {"tie_word_embeddings": True}))
    names = choose(Pair.of_edit(teacher, Edit((BLOCK,))), Training(train="all"))
    assert not [name for name in names if "lm_head" in name or "embed" in name]


def test_matrix_before_a_norm_is_what_ends_the_mlp(pair_of: Any) -> None:
    names = choose(pair_of("olmo2"), Training(train="mlp"))
    assert names == [f"{layer}mlp.down_proj.weight" for layer in LAYERS]


def test_low_rank_changes_merge_into_what_they_did(pair_of: Any) -> None:
    pytest.importorskip("peft")
    pair = pair_of("llama")
    trained = open_part(pair, train="lora", norms=True, rank=2)
    reached = {re.sub(r"\.lora_[AB]\.default", "", name) for name in trained.parameters}
    assert reached == {*MATRICES, *NORMS}
    optimizer = torch.optim.SGD([*trained.parameters.values()], lr=0.5)
    for _ in range(2):
        learn(pair, Batch.of(ROWS))
        optimizer.step()
    ids, model = torch.tensor([ROWS[0]]), pair.student.model
    with torch.no_grad():
        before = model(ids, use_cache=False).logits
        values = trained.values()
        trained.settle(values)
        after = model(ids, use_cache=False).logits
    assert all(".lora_" not in name for name, _ in model.named_parameters())
    assert all(bool((values[name] != trained.before[name]).any()) for name in values)
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)


# ---- training


def test_training_brings_the_student_nearer_and_leaves_the_teacher_alone(pair_of: Any) -> None:
    pair = pair_of("llama")
    teacher, student = values_of(pair.teacher.model), values_of(pair.student.model)
    healed = train(pair)
    assert healed.facts.used
    assert healed.facts.warning is None
    before, after = healed.facts.divergence
    assert after < 0.9 * before
    assert healed.facts.curve[0].held_back == before
    assert healed.facts.curve[-1].tokens == healed.facts.tokens == 41 * 48 == 1968
    assert not differing(pair.teacher.model, teacher)
    assert differing(pair.student.model, student) == healed.values.keys() == {*PARTS["all"]}
    assert all(torch.equal(pair.student.model.get_parameter(n), v) for n, v in healed.values.items())


@pytest.mark.parametrize("settings", [{"train": "all"}, {"train": "lora", "norms": True}])
def test_interrupted_training_goes_on_to_the_same_bytes(
    settings: dict[str, Any], pair_of: Any, tmp_path: Path
) -> None:
    if settings["train"] == "lora":
        pytest.importorskip("peft")
    whole = train(pair_of("llama"), **settings)
    state, told = tmp_path / "state.safetensors", []

    def stop(share: float) -> None:
        told.append(share)
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pair_of("llama"), state=state, key="a", report=stop, **settings)
    shares: list[float] = []
    resumed = train(pair_of("llama"), state=state, key="a", report=shares.append, **settings)
    assert shares[0] > 0.5
    assert resumed.values.keys() == whole.values.keys()
    assert all(torch.equal(whole.values[name], values) for name, values in resumed.values.items())
    strip = {"curve": {"__all__": {"seconds"}}, "seconds": True}
    assert resumed.facts.model_dump(exclude=strip) == whole.facts.model_dump(exclude=strip)
    anew: list[float] = []
    train(pair_of("llama"), state=state, key="another", report=anew.append, **settings)
    assert anew[0] < 0.1


@pytest.mark.parametrize("settings", [{"train": "all"}, {"train": "lora", "norms": True}])
def test_training_that_is_left_early_goes_on_as_if_it_was_not(
    settings: dict[str, Any], pair_of: Any, tmp_path: Path
) -> None:
    if settings["train"] == "lora":
        pytest.importorskip("peft")

    def run(until: int | None, state: Path | None = None) -> Any:
        return train(pair_of("llama"), state=state, key="a", until=until, **settings)

    alone, shared = [], tmp_path / "state.safetensors"
    together = [run(until, shared) for until in (700, 1300, None)]
    alone = [run(until) for until in (700, 1300, None)]
    assert [healed.facts.tokens for healed in together] == [672, 1296, 1968]
    for one, other in zip(together, alone, strict=True):
        assert all(torch.equal(other.values[name], values) for name, values in one.values.items())
        strip = {"curve": {"__all__": {"seconds"}}, "seconds": True}
        assert one.facts.model_dump(exclude=strip) == other.facts.model_dump(exclude=strip)
    again = run(700, shared)  # what lies there is further
    assert all(torch.equal(alone[0].values[name], values) for name, values in again.values.items())


@pytest.mark.parametrize("part", ["projection", "mlp", "lora", "tail", "all"])
def test_model_that_is_spread_over_devices_trains_alike(part: str, pair_of: Any) -> None:
    """As device ``auto`` spreads it over GPUs, by hooks of accelerate on every module."""
    from accelerate import dispatch_model

    whole = pair_of("llama")
    model = copy.deepcopy(whole.teacher.model)
    places = {name: "cpu" for name, module in model.named_modules() if not any(module.children())}
    teacher = Decoder.of(dispatch_model(model, places, main_device="cpu", force_hooks=True))
    spread = Pair.of_edit(teacher, edit_of(teacher))
    assert all(hasattr(layer.mlp.down_proj, "_hf_hook") for layer in spread.student.layers)
    one, two = (train(pair, train=part, tokens=300) for pair in (whole, spread))
    assert one.facts.used
    assert one.facts.divergence == two.facts.divergence
    assert one.values.keys() == two.values.keys()
    assert all(torch.equal(values, two.values[name]) for name, values in one.values.items())


def test_split_steps_give_nearly_the_same(pair_of: Any) -> None:
    one, two = train(pair_of("llama")), train(pair_of("llama"), accumulate=3, checkpointing=True)
    assert one.facts.training == two.facts.training
    for name, values in one.values.items():
        torch.testing.assert_close(two.values[name], values, rtol=1e-5, atol=1e-6)


def test_healing_that_makes_it_worse_is_not_used_and_says_so(pair_of: Any) -> None:
    pair = pair_of("llama")
    student = values_of(pair.student.model)
    healed = train(pair, learning_rate=3.0, warmup=0)
    assert (healed.facts.used, healed.values) == (False, {})
    assert "made nothing better" in healed.facts.warning
    assert healed.facts.divergence[0] == healed.facts.divergence[1]
    assert not differing(pair.student.model, student)


def test_loss_that_is_no_number_stops_and_keeps_the_best(pair_of: Any) -> None:
    pair, text = pair_of("llama"), sequences()
    text = [[token % 511 for token in row] for row in text]
    text[0][3] = 511
    pair.teacher.model.get_input_embeddings().weight.data[511] = float("nan")
    healed = train(pair, text=text, checks=40, seed=3)
    assert "the loss was not a number after" in healed.facts.warning
    assert healed.facts.tokens == 7 * 48
    assert healed.facts.used
    assert healed.facts.divergence[1] < healed.facts.divergence[0]
    assert all(bool(values.isfinite().all()) for values in healed.values.values())


def test_time_is_a_budget_too(pair_of: Any) -> None:
    facts = train(pair_of("llama"), tokens=None, seconds=1.0, checks=2).facts
    assert 1.0 <= facts.seconds < 10
    assert facts.tokens > 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens": 40}, r"tokens: 40 are fewer than one step of 4 sequences takes, which is 48"),
        ({"text": sequences(9)}, "9 sequences are too few to train on"),
    ],
)
def test_too_little_is_refused(settings: dict[str, Any], said: str, pair_of: Any) -> None:
    with pytest.raises(InputError, match=said):
        train(pair_of("llama"), **settings)


def test_models_that_predict_no_numbers_are_refused(pair_of: Any) -> None:
    pair = pair_of("llama")
    pair.teacher.layers[0].mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="not numbers"):
        train(pair)


def test_model_that_lacks_nothing_is_refused(pair_of: Any) -> None:
    pair = Pair.of_edit(pair_of("llama").teacher, Edit())
    with pytest.raises(InputError, match="nothing to heal"):
        train(pair)


def test_model_that_was_not_pruned_from_the_teacher_is_refused(pair_of: Any) -> None:
    made = pair_of("llama")
    other = copy.deepcopy(made.student.model)
    for parameter in other.parameters():
        parameter.data.mul_(1.01)
    with pytest.raises(InputError, match="not pruned from this teacher"):
        Pair.of_models(made.teacher, other, Edit((BLOCK,)))
    with pytest.raises(InputError, match="has 4 layers"):
        Pair.of_models(made.teacher, made.student.model, Edit((Block(3, 4),)))


# ---- the order of the text


def test_each_round_has_every_sequence_once_in_another_order() -> None:
    rows = [[i] * (1 + i % 3) for i in range(12)]
    steps = list_steps(rows, 4, ALIKE, seed=1)
    rounds = [[row for _ in range(3) for row in next(steps)] for _ in range(3)]
    assert all(sorted(one) == sorted(rows) for one in rounds)
    assert rounds[0] != rounds[1] != rounds[2]
    again = list_steps(rows, 4, ALIKE, seed=1)
    assert [row for _ in range(3) for row in next(again)] == rounds[0]


@pytest.mark.parametrize(
    ("said", "tokens"), [("200k", 200_000), ("2M", 2_000_000), ("1.5k", 1500), (7, 7), ("64", 64)]
)
def test_amounts_are_said_with_a_suffix(said: Any, tokens: int) -> None:
    assert Training(tokens=said).budget == tokens


@pytest.mark.parametrize(
    "said",
    [{"tokens": "many"}, {"tokens": 0}, {"tokens": 1, "seconds": 1}, {"rank": 4}, {"accumulate": 9}],
)
def test_settings_that_do_not_go_together_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"tokens|rank|split"):
        Training(**said)
