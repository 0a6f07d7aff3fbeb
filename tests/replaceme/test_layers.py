"""Decoder layers that stay in their files until they are called, against ``from_pretrained``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replaceme.architectures import architecture_of
from replaceme.errors import InputError
from replaceme.io import models
from replaceme.io.layers import bring, open_layers
from tests.families import FAMILIES, LAYERS, small

DTYPES = ["float32", "bfloat16"]
NAMES = ["llama", "phi", "falcon", "gpt2", "gemma2", "mixtral", "qwen2_moe", "deepseek_v3"]


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each kind of layers: in a row, parallel, with norms behind, with experts."""
    family, out = FAMILIES[request.param], tmp_path_factory.mktemp(request.param)
    small(family.model_type, **family.settings).save_pretrained(out)
    return out


@pytest.fixture
def llama_folder(tmp_path: Path) -> Path:
    small("llama", intermediate_size=48).save_pretrained(tmp_path)
    return tmp_path


def opened(folder: Path, dtype: str = "float32") -> tuple[Any, nn.ModuleList]:
    architecture = architecture_of(models.read_config(folder), "the model", folder)
    model = open_layers(folder, architecture, dtype)
    return model, architecture.decoder_layers(model)


def loaded(folder: Path, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def alike(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        one[name].dtype == two[name].dtype and torch.equal(one[name], two[name]) for name in one
    )


def held(layers: nn.ModuleList) -> list[int]:
    """Numbers of the layers whose values are in memory."""
    return [
        number
        for number, layer in enumerate(layers)
        if any(p.untyped_storage().nbytes() >= p.nbytes for p in layer.parameters())
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_model_is_the_one_that_is_loaded_whole(folder: Path, dtype: str) -> None:
    model, layers = opened(folder, dtype)
    whole = loaded(folder, dtype)
    ids = torch.arange(3, 33)[None]
    with torch.no_grad():
        assert torch.equal(*(m(input_ids=ids, use_cache=False).logits for m in (model, whole)))
    paths = {module: name for name, module in model.named_modules()}
    for layer in reversed(layers):
        bring(layer)
        assert alike(tensors(layer), tensors(whole.get_submodule(paths[layer])))
    inside = f"{paths[layers]}."
    assert alike(
        *(
            {name: t for name, t in tensors(m).items() if not name.startswith(inside)}
            for m in (model, whole)
        )
    )


def test_one_layer_is_in_memory_and_parameters_stay_the_same_objects(llama_folder: Path) -> None:
    model, layers = opened(llama_folder)
    before = [*model.parameters()]
    assert held(layers) == []
    for number in (0, 1, 4, 2):
        bring(layers[number])
        assert held(layers) == [number]
    assert all(one is two for one, two in zip(before, model.parameters(), strict=True))
    away = layers[0].mlp.down_proj.weight
    assert away.shape == layers[2].mlp.down_proj.weight.shape
    assert bool(away.isnan().all())


def test_other_values_that_a_layer_was_given_stay(llama_folder: Path) -> None:
    _, layers = opened(llama_folder)
    weight = layers[1].mlp.down_proj.weight
    own, weight.data = weight.data, torch.ones_like(weight)
    bring(layers[1])
    bring(layers[2])
    assert bool((weight == 1).all())
    weight.data = own
    bring(layers[1])
    assert not bool((weight == 1).any())


def test_checkpoint_that_vanishes_is_an_error_that_names_the_layer(llama_folder: Path) -> None:
    _, layers = opened(llama_folder)
    bring(layers[0])
    (llama_folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"layer [1-5] cannot be read: .*model.safetensors"):
        for layer in layers:
            bring(layer)


def test_layers_that_share_tensors_are_refused(llama_folder: Path, monkeypatch: Any) -> None:
    from transformers import LlamaForCausalLM

    same = {f"model.layers.{LAYERS - 1}.mlp.up_proj.weight": "model.layers.0.mlp.up_proj.weight"}
    monkeypatch.setattr(LlamaForCausalLM, "_tied_weights_keys", same)
    config = models.read_config(llama_folder) | {"tie_word_embeddings": True}
    import json

    (llama_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="are one tensor"):
        opened(llama_folder)
