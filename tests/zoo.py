"""Every class that transformers generates text with, as small models with random weights."""

from __future__ import annotations

import json
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

from bench.scoring.forkable import find_obstacle
from replaceme.architectures import Architecture, architecture_of, architecture_of_model
from replaceme.architectures.small import build_small, shrink
from replaceme.errors import InputError
from replaceme.inspection import judge
from replaceme.io.auto import auto_class

LAYERS = 6
SMALL_SPEECH = {"encoder_config": {"hidden_dim": 32, "num_layers": 2, "dim_head": 8, "num_heads": 4}}
SMALL_SOUND = {"num_filters": 2, "depths": [1] * 7}
# What a config must say beyond its own defaults, for a model of its class to be built at all, or in a
# moment: what reads images and sound is not what the table is of.
SETTINGS: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "granite_speech": SMALL_SPEECH,
    "granite_speech_plus": SMALL_SPEECH,
    "qwen2_vl": {"vision_config": {"depth": 2, "embed_dim": 32, "num_heads": 4}},
    "vibevoice_asr": {
        "acoustic_tokenizer_encoder_config": SMALL_SOUND,
        "semantic_tokenizer_encoder_config": SMALL_SOUND,
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"] * 2},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 126},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 126},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention"] * 2, "num_hidden_layers": LAYERS},
}
KEEP_COUNT = {"gpt_neo", "zamba", "zamba2", "lfm2_moe", "prophetnet"}  # something beside says it too
UNBUILT = {
    "blt": "two models of bytes and patches, with one between them",
    "cohere_compass_text": "its config makes no model with its own defaults",
    "dbrx": "its config cannot be read again",
    "qwen4_exp": "its config makes no model with its own defaults",
    "qwen4_exp_text": "its config makes no model with its own defaults",
    "reformer": "its layers run forward and backward on two streams",
    "xmod": "needs the language to be said at every call",
    "emu3": "its text model is not loaded by AutoModelForCausalLM once it is saved",
    "gemma3n": "needs the package timm",
    "gemma4_assistant": "drafts for Gemma 4, and has no embeddings of its own",
    "gemma4_unified_assistant": "drafts for Gemma 4, and has no embeddings of its own",
    "musicgen": "made of three models, of which its config names none by default",
    "musicgen_melody": "made of three models, of which its config names none by default",
    "chameleon": "its config makes no model with its own defaults",
    "cohere_compass": "its config makes no model with its own defaults",
    "deepseek_ocr2": "its config makes no model with its own defaults",
    "emu3 with images": "its config makes no model with its own defaults",
    "ernie4_5_vl_moe": "its config makes no model with its own defaults",
    "fast_vlm": "needs the package timm",
    "fun_asr_nano": "its config makes no small model",
    "glm5_next": "its config makes no small model",
    "granite4_vision": "its config makes no model with its own defaults",
    "hunyuan_vl": "its config makes no model with its own defaults",
    "inkling_mm_model": "its config makes no small model",
    "kyutai_speech_to_text": "its config makes no small model",
    "shieldgemma2": "its tensors are saved under names that its class does not load",
    "perception_lm": "needs the package timm",
    "qwen3_omni_moe": "its config makes no model with its own defaults",
    "qwen4_exp with images": "its config makes no model with its own defaults",
    "step3p7": "its config makes no model with its own defaults",
    "vision-encoder-decoder": "made of two models, of which its config names none by default",
}


BESIDE_TEXT = " with images"  # in the name of the second class of a model type


def classes() -> dict[str, str]:
    """Names of the classes, each by its model type."""
    found: dict[str, str] = {}
    for mapping in (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    ):
        for model_type, names in mapping.items():
            name = names if isinstance(names, str) else names[0]
            if found.setdefault(model_type, name) != name:
                found[model_type + BESIDE_TEXT] = name
    return found


def config_of(name: str) -> Any:
    """A small config with a few layers of each kind."""
    model_type = name.removesuffix(BESIDE_TEXT)
    kind = CONFIG_MAPPING[model_type]
    settings = dict(SETTINGS.get(model_type, {}))
    usual = kind(**settings)
    text = usual.get_text_config()
    if text is usual and model_type not in KEEP_COUNT and not getattr(usual, "layer_types", None):
        for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
            if isinstance(getattr(usual, key, None), int):
                settings[key] = LAYERS
                break
    return shrink(kind(**settings, architectures=[classes()[name]]))


def build(config: Any) -> Any:
    return auto_class(config).from_config(config)


def width_of(config: Any) -> int:
    return int(config.get_text_config().hidden_size)


def measured(model: Any) -> Architecture:
    return architecture_of_model(model, "the model")


def describe(model_type: str) -> dict[str, Any]:
    """What the table of decoders says of a class: what is exact on it, or why it is refused."""
    said = {"class": classes()[model_type]}
    if model_type in UNBUILT:
        return said | {"unbuilt": UNBUILT[model_type]}
    config = config_of(model_type)
    try:
        architecture = architecture_of(config.to_dict(), model_type)
    except InputError as error:
        return said | {"refused": str(error).removeprefix(f"{model_type}: ")}
    found = judge(config, build, architecture, model_type)
    reasons = {"removal": found.removal, "diagonal": found.diagonal}
    reasons |= {key: found.solvers[key] for key in ("lstsq", "refit", "reconstruct")}
    if not found.removal:
        reasons["one pass"] = find_obstacle(build_small(config, build))
    said |= {key: _shorten(reason) for key, reason in reasons.items()}
    return said | {"kinds": len(architecture.kinds)}


def _shorten(reason: str | None) -> Any:
    return reason or True


if __name__ == "__main__":
    entries = {model_type: describe(model_type) for model_type in classes()}
    print(json.dumps(entries, indent=1, ensure_ascii=False))
