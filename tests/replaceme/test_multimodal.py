"""Models that read images or sound besides text: their language model is pruned, the rest is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM

from replaceme.architectures import architecture_of, layer_count, pruned_config
from replaceme.architectures.small import build_small
from replaceme.edit import Edit, apply
from replaceme.errors import InputError
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint
from tests import zoo

pytestmark = pytest.mark.slow

BLOCK = Block(2, 4)
# The path of the language model's layers in the released files: google/gemma-3-4b-it,
# Qwen/Qwen2.5-VL-7B-Instruct, Qwen/Qwen3-VL-8B-Instruct, mistralai/Mistral-Small-3.1-24B-Instruct-2503,
# meta-llama/Llama-4-Scout-17B-16E-Instruct, llava-hf/llava-1.5-7b-hf, Qwen/Qwen2-Audio-7B-Instruct.
RELEASED = {
    "gemma3": "language_model.model.layers",
    "qwen2_5_vl": "model.layers",
    "qwen3_vl": "model.language_model.layers",
    "mistral3": "language_model.model.layers",
    "llama4 with images": "language_model.model.layers",
    "llava": "language_model.model.layers",
    "qwen2_audio": "language_model.model.layers",
}
FILES = {
    "preprocessor_config.json": b'{"image_processor_type": "any"}\n',
    "processor_config.json": b'{"processor_class": "any"}\n',
    "chat_template.json": b'{"chat_template": "{{ messages }}"}\n',
}


@pytest.fixture(scope="module", params=RELEASED)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def whole(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint named as the released ones are."""
    folder = tmp_path_factory.mktemp(name.split()[0]) / "whole"
    model = build_small(zoo.config_of(name), zoo.build)
    model.save_pretrained(folder)
    for file, content in FILES.items():
        (folder / file).write_bytes(content)
    stored = load_file(folder / "model.safetensors")
    today = next(key for key in stored if ".layers.0.input_layernorm" in key and "visual" not in key)
    today = today.partition(".0.")[0]
    renamed = {key.replace(f"{today}.", f"{RELEASED[name]}."): value for key, value in stored.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load(name: str, folder: Path) -> Any:
    auto = AutoModelForMultimodalLM if "audio" in name else AutoModelForImageTextToText
    model, found = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=torch.arange(3, 15)[None], use_cache=False).logits


def test_layers_of_the_language_model_go_and_all_else_is_carried_over_byte_for_byte(
    name: str, whole: Path, tmp_path: Path
) -> None:
    model = load(name, whole)
    architecture = zoo.measured(model)
    width = zoo.width_of(model.config)
    transform = torch.eye(width, dtype=torch.float64) * 1.5
    edit = Edit((BLOCK,), {BLOCK.start - 1: transform})
    write_checkpoint(whole, tmp_path / "pruned", edit, None)
    again = load(name, tmp_path / "pruned")
    apply(model, architecture, edit)
    assert torch.equal(logits(again), logits(model))
    before, after = (load_file(f / "model.safetensors") for f in (whole, tmp_path / "pruned"))
    prefix = f"{RELEASED[name]}."
    beside = {key for key in before if not key.startswith(prefix)}
    assert any("vis" in key or "audio" in key for key in beside)
    assert beside == {key for key in after if not key.startswith(prefix)}
    assert all(torch.equal(before[key], after[key]) for key in beside)
    moved = f"{BLOCK.start}.input_layernorm.weight", f"{BLOCK.end}.input_layernorm.weight"
    assert torch.equal(after[prefix + moved[0]], before[prefix + moved[1]])
    for file, content in FILES.items():
        assert (tmp_path / "pruned" / file).read_bytes() == content


def test_config_of_the_language_model_alone_changes(whole: Path, tmp_path: Path) -> None:
    write_checkpoint(whole, tmp_path / "pruned", Edit((BLOCK,)), None)
    before, after = (json.loads((f / "config.json").read_text()) for f in (whole, tmp_path / "pruned"))
    assert layer_count(after) == layer_count(before) - 2
    towers = [key for key in before if key.endswith("_config") and key != "text_config"]
    assert towers
    assert all(after[key] == before[key] for key in towers)


def test_layers_that_the_config_leaves_to_the_defaults_are_counted_and_written_out() -> None:
    """llava-hf/llava-1.5-7b-hf says of its language model only that it is a Llama."""
    said = {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": {"model_type": "llama", "vocab_size": 32064},
        "vision_config": {"model_type": "clip_vision_model", "num_hidden_layers": 24},
    }
    assert layer_count(said) == 32
    kept = [*range(20), *range(24, 32)]
    pruned = pruned_config(said, kept)
    assert pruned["text_config"] == said["text_config"] | {"num_hidden_layers": 28}
    assert pruned["vision_config"] == said["vision_config"]


def test_class_that_the_checkpoint_names_decides_whether_images_stay() -> None:
    config = zoo.config_of("qwen3_5 with images")
    with_images = architecture_of(config.to_dict(), "the model")
    assert with_images.layers == "model.language_model.layers"
    config.architectures = ["Qwen3_5ForCausalLM"]
    assert architecture_of(config.to_dict(), "the model").layers == "model.layers"
    assert isinstance(zoo.build(config), AutoModelForCausalLM._model_mapping[type(config)])


def test_model_that_needs_an_image_is_refused_in_a_sentence() -> None:
    message = r"m: 'blip-2' .* does not answer to text alone: .*pixel_values"
    with pytest.raises(InputError, match=message):
        architecture_of(zoo.config_of("blip-2").to_dict(), "m")


def test_settings_of_single_layers_follow_their_layers() -> None:
    """Gemma 4 says by number which layers have wider heads; as released, every sixth has."""
    said = {
        "model_type": "gemma4_text",
        "num_hidden_layers": 12,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2,
        "per_layer_config": {"05": {"head_dim": 512}, "11": {"head_dim": 512}},
    }
    pruned = pruned_config(said, [0, 1, 2, 5, 6, 7, 8, 9, 10, 11])
    assert pruned["per_layer_config"] == {"3": {"head_dim": 512}, "9": {"head_dim": 512}}
    pruned = pruned_config(said, [*range(5), *range(6, 12)])
    assert pruned["per_layer_config"] == {"10": {"head_dim": 512}}
