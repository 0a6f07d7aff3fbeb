"""Every family of the table, on a small random model of its own class."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import replaceme
from replaceme.architectures import TITLES, pruned_config
from replaceme.calibration import Batch
from replaceme.decoder import Decoder
from replaceme.edit import Edit, apply
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint
from tests.families import (
    ALL_SOLVERS,
    DIAGONAL,
    FAMILIES,
    LAYERS,
    WIDTH,
    Family,
    measured,
    near_identity,
    small,
)

pytestmark = pytest.mark.slow

BLOCKS = (Block(2, 3), Block(4, 5))
KEPT = [0, 1, 3, 5]


def reload(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager").eval()


def pruned(model: Any, edit: Edit) -> Any:
    apply(model, measured(model), edit)
    return model


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    return model(ids, use_cache=False).logits


def layers_of(model: Any) -> Any:
    return measured(model).decoder_layers(model)


def transforms(family: Family) -> dict[int, Tensor]:
    """A T that the family allows for the layer before each block."""
    diagonal = family in DIAGONAL.values()
    return {block.start - 1: near_identity(diagonal, block.start) for block in BLOCKS}


def kinds(model: Any) -> list[dict[str, Any]]:
    """What makes the layers of a model differ from each other, besides their weights."""
    names = ("sliding_window", "use_rope", "layer_type", "is_sliding", "attention_type")
    return [
        {"mlp": type(getattr(layer, "mlp", None)).__name__}
        | {name: getattr(m, name) for m in layer.modules() for name in names if hasattr(m, name)}
        for layer in layers_of(model)
    ]


@contextmanager
def pruned_by_hand(model: Any, family: Family, found: dict[int, Tensor]) -> Iterator[None]:
    """The whole model: layers of the blocks return their input, T follows the MLP before them."""
    layers, handles, seen = layers_of(model), [], {}

    def keep(_module: Any, _args: Any, output: Any) -> None:
        seen["mlp"] = (output[0] if isinstance(output, tuple) else output).clone()

    def merge(transform: Tensor) -> Callable[..., Any]:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            states, *rest = output if isinstance(output, tuple) else (output,)
            mlp = seen["mlp"].reshape(states.shape)
            states = states + family.multiplier * (mlp @ transform - mlp)
            return (states, *rest) if isinstance(output, tuple) else states

        return hook

    def skip(_module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    for layer, transform in found.items():
        handles.append(layers[layer].get_submodule(family.mlp).register_forward_hook(keep))
        handles.append(layers[layer].register_forward_hook(merge(transform)))
    for block in BLOCKS:
        for layer in layers[block.start : block.end]:
            handles.append(layer.register_forward_hook(skip, with_kwargs=True))
    yield
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="module")
def prompt() -> Tensor:
    """[2, 20] token ids, longer than the sliding windows here."""
    return torch.randint(2, 512, (2, 20), generator=torch.Generator().manual_seed(6))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def checkpoint(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intact") / "model"
    small(family.model_type, **family.settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def intact(checkpoint: Path) -> Any:
    """The checkpoint, loaded; tests do not change it."""
    return reload(checkpoint)


@pytest.fixture(scope="module")
def short(checkpoint: Path, family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with transforms merged and the blocks removed, by way of its files."""
    folder = tmp_path_factory.mktemp("pruned") / "model"
    write_checkpoint(checkpoint, folder, Edit(BLOCKS, transforms(family)), None)
    return folder


def test_every_family_with_a_title_is_tested() -> None:
    assert {family.model_type for family in FAMILIES.values()} == TITLES.keys()


def test_what_was_measured_is_what_is_known_of_the_family(family: Family, intact: Any) -> None:
    kinds = measured(intact).kinds
    assert {kind.factor for kind in kinds} == {family.multiplier}
    ends = {kind.projection for kind in kinds}
    if family in ALL_SOLVERS.values():
        assert len(ends) == 1
        assert {*kinds[0].outputs} >= {f"{kinds[0].projection}.weight"}
        assert all(kind.mixer for kind in kinds)
    elif family in DIAGONAL.values():
        assert {kind.norm for kind in kinds} == {family.mlp}
        assert not any(kind.outputs for kind in kinds)
        assert ends == {"mlp.down_proj"}
        assert {kind.mixer for kind in kinds} == {"self_attn.o_proj"}
        assert all(kind.norms["mlp.down_proj"].path == family.mlp for kind in kinds)
        assert all(kind.norms.keys() == {"mlp.down_proj", "self_attn.o_proj"} for kind in kinds)
    else:
        assert None in ends
        assert all(kind.outputs for kind in kinds)


def test_disk_equals_memory(family: Family, checkpoint: Path, short: Path, prompt: Tensor) -> None:
    in_memory, on_disk = pruned(reload(checkpoint), Edit(BLOCKS, transforms(family))), reload(short)
    weights = on_disk.state_dict()
    assert weights.keys() == in_memory.state_dict().keys()
    assert all(torch.equal(weights[name], t) for name, t in in_memory.state_dict().items())
    torch.testing.assert_close(logits(on_disk, prompt), logits(in_memory, prompt), rtol=1e-5, atol=1e-6)


def test_merged_transform_is_the_transform_by_hand(
    family: Family, checkpoint: Path, prompt: Tensor
) -> None:
    """In float64, except for the norms, which compute in float32."""
    model, found = reload(checkpoint).double(), transforms(family)
    with pruned_by_hand(model, family, found):
        wanted = logits(model, prompt)
    got = logits(pruned(model, Edit(BLOCKS, found)), prompt)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_identity_transform_is_plain_removal(family: Family, checkpoint: Path) -> None:
    identity = {layer: torch.eye(WIDTH, dtype=torch.float64) for layer in transforms(family)}
    plain, merged = (pruned(reload(checkpoint), Edit(BLOCKS, found)) for found in ({}, identity))
    for (name, wanted), got in zip(plain.named_parameters(), merged.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, msg=name)


def test_generation_with_a_cache_equals_generation_without(
    family: Family, checkpoint: Path, short: Path, prompt: Tensor
) -> None:
    for model in (reload(short), pruned(reload(checkpoint), Edit(BLOCKS, transforms(family)))):
        with_cache, without = (
            model.generate(
                prompt,
                max_new_tokens=5,
                do_sample=False,
                use_cache=cache,
                pad_token_id=1,
                eos_token_id=None,
            )
            for cache in (True, False)
        )
        assert torch.equal(with_cache, without)


def test_settings_of_layers_follow_the_kept_layers(intact: Any, short: Path) -> None:
    before = intact.config.to_dict()
    after = json.loads((short / "config.json").read_text())
    assert [kinds(reload(short))[i] for i in range(len(KEPT))] == [kinds(intact)[i] for i in KEPT]
    lists = {
        key: values
        for key, values in before.items()
        if isinstance(values, list) and len(values) == LAYERS
    }
    assert {key: after[key] for key in lists} == {key: [v[i] for i in KEPT] for key, v in lists.items()}


def test_decoder_steps_are_the_forward_of_the_model(intact: Any) -> None:
    decoder = Decoder(intact, measured(intact))
    rows = [torch.randint(2, 512, (n,)).tolist() for n in (20, 11)]
    batch = Batch.of(rows)
    states, calls = decoder.enter(batch)
    for layer in range(LAYERS):
        states = decoder.step(layer, states, calls[layer])
    read = decoder.run(batch, {"last": decoder.output(LAYERS - 1)}, until=LAYERS)["last"]
    torch.testing.assert_close(states, read)
    found = decoder.logits(states)
    for i, ids in enumerate(rows):
        wanted = logits(intact, torch.tensor([ids]))[0]
        torch.testing.assert_close(found[i, : len(ids)], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL_SOLVERS)
@pytest.mark.parametrize("solver", ["lstsq", "relative", "refit", "reconstruct"])
def test_fit_beats_plain_removal(name: str, solver: str, tokenizer: Any, texts: list[str]) -> None:
    family = FAMILIES[name]
    model = small(family.model_type, **family.settings)
    done = replaceme.prune(model, tokenizer, texts[:9], blocks=BLOCKS, solver=solver, batch_size=3)
    removal, fitted = done.fit.relative_error
    assert fitted < removal


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            {
                "model_type": "qwen2",
                "use_sliding_window": True,
                "sliding_window": 8,
                "max_window_layers": 3,
                "layer_types": None,
            },
            {"layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2, "max_window_layers": 2},
        ),
        ({"model_type": "smollm3", "no_rope_layers": None}, {"no_rope_layers": [1, 1, 0, 1]}),
        ({"model_type": "deepseek_v3"}, {"first_k_dense_replace": 2}),
        ({"model_type": "llama4_text", "interleave_moe_layer_step": 2}, {"moe_layers": [1, 2, 3]}),
        (
            {"model_type": "of-my-own", "decoder_sparse_step": 2},
            {"decoder_sparse_step": 1, "mlp_only_layers": [0]},
        ),
    ],
    ids=lambda value: value.get("model_type", ""),
)
def test_what_a_config_leaves_out_or_null_is_that_of_the_layers_that_stay(
    given: dict[str, Any], wanted: dict[str, Any]
) -> None:
    pruned = pruned_config(given | {"num_hidden_layers": LAYERS}, KEPT)
    assert {key: pruned[key] for key in wanted} == wanted
