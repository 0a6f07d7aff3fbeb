"""Pruning in memory and on disk: the same model, and the model that was meant."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from replaceme.edit import Edit, apply, edit_temporarily, merge_diagonal, merge_transform
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint
from tests.families import measured

BLOCK = Block(3, 5)
SLIDING = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "sliding_window": 16},
    "qwen2": {"model_type": "qwen2"},
    "qwen2-sliding": {"model_type": "qwen2", **SLIDING},
    "qwen3": {"model_type": "qwen3"},
}
EDITS = ["plain", "transform", "weights", "both", "last block", "two blocks", "first and last"]
Save = Callable[..., Path]
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def transform() -> Tensor:
    return noisy_identity(5)


def noisy_identity(seed: int) -> Tensor:
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.eye(64, dtype=torch.float64) + 0.1 * noise


def random_weights(*places: tuple[int, str]) -> dict[tuple[int, str], Tensor]:
    """New float64 values for projections of a Llama-like layer."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"mlp.down_proj.weight": (64, 96), "self_attn.o_proj.weight": (64, 64)}
    return {
        (layer, name): 0.1 * torch.randn(shapes[name], generator=generator, dtype=torch.float64)
        for layer, name in places
    }


def edit_of(name: str) -> Edit:
    down, out = "mlp.down_proj.weight", "self_attn.o_proj.weight"
    return {
        "plain": Edit((Block(1, 2),)),
        "transform": Edit((BLOCK,), {2: noisy_identity(5)}),
        "weights": Edit((BLOCK,), weights=random_weights((2, down), (6, out), (6, down))),
        "both": Edit((BLOCK,), {2: noisy_identity(5)}, random_weights((2, down), (5, out))),
        "last block": Edit((Block(5, 8),), {4: noisy_identity(5)}),
        "two blocks": Edit((Block(1, 3), Block(5, 6)), {0: noisy_identity(1), 4: noisy_identity(2)}),
        "first and last": Edit((Block(1, 2), Block(7, 8)), {0: noisy_identity(1)}),
    }[name]


@pytest.fixture(scope="module")
def prompt() -> Tensor:
    """[2, 40] token ids, longer than the sliding windows here."""
    return torch.randint(2, 512, (2, 40), generator=torch.Generator().manual_seed(6))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> dict[str, Any]:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def checkpoint(
    family: dict[str, Any], save_model: Save, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return save_model(tmp_path_factory.mktemp("source") / "model", **family)


def reload(folder: Path, dtype: str = "auto") -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def pruned(model: Any, edit: Edit) -> Any:
    apply(model, measured(model), edit)
    return model


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    return model(ids, use_cache=False).logits


@contextmanager
def edited_by_hand(model: Any, edit: Edit) -> Iterator[None]:
    """The whole model with new weights, whose layers in the blocks return their input; T by hook."""
    layers = model.model.layers
    before = {}
    for (layer, name), values in edit.weights.items():
        parameter = layers[layer].get_parameter(name)
        before[layer, name] = parameter.data
        parameter.data = values.to(parameter)
    gone = [i for block in edit.blocks for i in range(*block)]
    handles = [layers[i].register_forward_hook(lambda _m, args, _o: args[0]) for i in gone]
    handles += [
        layers[i].mlp.down_proj.register_forward_hook(lambda _m, _i, output, t=t: output @ t)
        for i, t in edit.transforms.items()
    ]
    yield
    for handle in handles:
        handle.remove()
    for (layer, name), values in before.items():
        layers[layer].get_parameter(name).data = values


def greedy(model: Any, ids: Tensor, count: int) -> Tensor:
    """Continuations computed from the whole sequence at every step."""
    for _ in range(count):
        ids = torch.cat([ids, logits(model, ids)[:, -1:].argmax(-1)], dim=1)
    return ids


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.mark.parametrize("name", EDITS)
def test_disk_equals_memory(checkpoint: Path, prompt: Tensor, tmp_path: Path, name: str) -> None:
    edit = edit_of(name)
    write_checkpoint(checkpoint, tmp_path / "out", edit, None)
    in_memory, on_disk = pruned(reload(checkpoint), edit), reload(tmp_path / "out")
    weights = on_disk.state_dict()
    assert weights.keys() == in_memory.state_dict().keys()
    assert all(torch.equal(weights[name], t) for name, t in in_memory.state_dict().items())
    assert torch.equal(logits(in_memory, prompt), logits(on_disk, prompt))


@pytest.mark.parametrize("name", EDITS)
def test_pruned_model_is_the_whole_one_with_the_blocks_skipped(
    family: dict[str, Any], make_model: Make, prompt: Tensor, name: str
) -> None:
    edit = edit_of(name)
    model = make_model(**family).double()
    with edited_by_hand(model, edit):
        wanted = logits(model, prompt)
    torch.testing.assert_close(logits(pruned(model, edit), prompt), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", EDITS)
def test_edit_for_a_while_equals_the_pruned_model_and_is_undone(make_model: Make, name: str) -> None:
    model, edit = make_model(), edit_of(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with edit_temporarily(model, measured(model), edit) as kept:
        weights = [
            {key: t.clone() for key, t in model.model.layers[i].state_dict().items()} for i in kept
        ]
    assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())
    for layer, found in zip(pruned(model, edit).model.layers, weights, strict=True):
        assert all(torch.equal(t, found[key]) for key, t in layer.state_dict().items())


def test_identity_transform_is_plain_removal(make_model: Make) -> None:
    identity = {2: torch.eye(64, dtype=torch.float64)}
    plain, merged_ = (pruned(make_model(), Edit((BLOCK,), found)) for found in ({}, identity))
    weights = merged_.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in plain.state_dict().items())


def test_empty_edit_changes_nothing(make_model: Make, prompt: Tensor) -> None:
    model = make_model()
    wanted, config = logits(model, prompt), model.config.to_dict()
    assert torch.equal(logits(pruned(model, Edit()), prompt), wanted)
    assert model.config.to_dict() == config


def test_generation_with_a_cache_equals_generation_without(
    checkpoint: Path, prompt: Tensor, tmp_path: Path
) -> None:
    edit = edit_of("transform")
    write_checkpoint(checkpoint, tmp_path / "out", edit, None)
    for model in (pruned(reload(checkpoint), edit), reload(tmp_path / "out")):
        wanted = greedy(model, prompt, 8)
        got = model.generate(
            prompt, max_new_tokens=8, do_sample=False, use_cache=True, eos_token_id=None, pad_token_id=1
        )
        assert torch.equal(got, wanted)


def test_configs_of_memory_and_disk_agree(checkpoint: Path, tmp_path: Path) -> None:
    original = json.loads((checkpoint / "config.json").read_text())
    write_checkpoint(checkpoint, tmp_path / "out", Edit((BLOCK,)), None)
    pruned(reload(checkpoint), Edit((BLOCK,))).save_pretrained(tmp_path / "memory")
    disk, memory = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("out", "memory")
    )
    assert disk == memory
    changed = {key for key in disk if disk[key] != original[key]}
    assert "num_hidden_layers" in changed <= {"num_hidden_layers", "layer_types", "max_window_layers"}
    assert disk["num_hidden_layers"] == 6


@pytest.mark.parametrize(
    "block, full", [(Block(1, 3), 2), (Block(3, 5), 3), (Block(3, 7), 3), (Block(5, 8), 4)], ids=str
)
def test_window_layers_follow_the_layers(
    save_model: Save, tmp_path: Path, block: Block, full: int
) -> None:
    source = save_model(tmp_path / "source", "qwen2", **SLIDING)
    write_checkpoint(source, tmp_path / "out", Edit((block,)), None)
    config = reload(tmp_path / "out").config
    size = 8 - block.size
    assert config.num_hidden_layers == len(config.layer_types) == size
    assert config.max_window_layers == full
    assert config.layer_types == ["full_attention"] * full + ["sliding_attention"] * (size - full)


@pytest.mark.parametrize("name", ["transform", "weights"])
def test_only_the_tensors_concerned_change(tiny: Path, tmp_path: Path, name: str) -> None:
    edit = edit_of(name)
    write_checkpoint(tiny, tmp_path / "out", edit, None)
    before, after = tensors_of(tiny), tensors_of(tmp_path / "out")
    wanted = {
        name.replace(f"layers.{i}.", f"layers.{i - 2}.") if i > 4 else name: tensor
        for name, tensor in before.items()
        for i in [int(name.split(".")[2]) if "layers" in name else 0]
        if i not in (3, 4)
    }
    assert after.keys() == wanted.keys()
    changed = {name for name in wanted if not torch.equal(after[name], wanted[name])}
    if name == "transform":
        place = "model.layers.2.mlp.down_proj.weight"
        assert changed == {place}
        expected = (edit.transforms[2].mT @ before[place].double()).float()
        torch.testing.assert_close(after[place], expected, rtol=1e-6, atol=1e-7)
    else:
        places = {(i, n): f"model.layers.{i if i < 5 else i - 2}.{n}" for i, n in edit.weights}
        assert changed == {*places.values()}
        for key, place in places.items():
            assert torch.equal(after[place], edit.weights[key].float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("axis", [-1, -2])
def test_merged_weight_is_computed_in_float64_and_rounded_once(dtype: torch.dtype, axis: Any) -> None:
    """Whatever the layout: outputs of the projection become x T."""
    transform = noisy_identity(3)
    inputs = torch.randn(10, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    weight = weight if axis == -1 else weight.mT.contiguous()
    got = merge_transform(weight, transform, axis)
    found, wanted = (inputs @ (w.double() if axis == -1 else w.double().mT) for w in (got, weight))
    wanted = wanted @ transform
    assert got.dtype == dtype
    assert got.shape == weight.shape
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found, wanted, rtol=4 * eps, atol=30 * eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_merged_norm_is_computed_in_float64_and_rounded_once(dtype: torch.dtype, offset: float) -> None:
    transform = noisy_identity(3).diagonal().diag()
    states = torch.randn(10, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(64, generator=torch.Generator().manual_seed(2)).to(dtype)
    got = merge_diagonal(weight, transform, offset)
    wanted = states * (offset + weight.double()) @ transform
    found = states * (offset + got.double())
    assert got.dtype == dtype
    assert got.shape == weight.shape
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found, wanted, rtol=4 * eps, atol=30 * eps)


def test_stacked_experts_are_each_merged(transform: Tensor) -> None:
    weight = torch.randn(3, 64, 24, dtype=torch.float64)
    stacked = merge_transform(weight, transform, -2)
    assert all(torch.equal(stacked[i], merge_transform(weight[i], transform, -2)) for i in range(3))
    turned = merge_transform(weight.mT, transform, -1)
    torch.testing.assert_close(turned, stacked.mT)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["transform", "weights"])
def test_cast_checkpoint_equals_the_cast_model_pruned(
    tiny: Path, tmp_path: Path, name: str, dtype: str
) -> None:
    edit = edit_of(name)
    write_checkpoint(tiny, tmp_path / "out", edit, None, dtype=dtype)
    on_disk, in_memory = reload(tmp_path / "out"), pruned(reload(tiny, dtype), edit)
    assert on_disk.dtype == in_memory.dtype == getattr(torch, dtype)
    weights = on_disk.state_dict()
    assert all(torch.equal(weights[name], t) for name, t in in_memory.state_dict().items())


def test_wider_dtype_is_exact(save_model: Save, transform: Tensor, tmp_path: Path) -> None:
    source = save_model(tmp_path / "source", dtype="bfloat16")
    write_checkpoint(source, tmp_path / "out", Edit((BLOCK,), {2: transform}), None, dtype="float32")
    name = "model.layers.2.mlp.down_proj.weight"
    before, after = tensors_of(source), tensors_of(tmp_path / "out")
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    assert torch.equal(after["lm_head.weight"], before["lm_head.weight"].float())
    torch.testing.assert_close(after[name], (transform.mT @ before[name].double()).float())
