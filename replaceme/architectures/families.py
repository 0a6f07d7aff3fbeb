"""What cannot be measured of families: their names, and variants that are refused."""

from __future__ import annotations

from typing import Any

TITLES = {
    "llama": "Llama 2/3.x, SmolLM2",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "phi3": "Phi-3",
    "olmo": "OLMo",
    "smollm3": "SmolLM3",
    "gemma": "Gemma",
    "granite": "Granite",
    "starcoder2": "StarCoder2",
    "cohere": "Command R",
    "gpt2": "GPT-2",
    "opt": "OPT",
    "gpt_neox": "GPT-NeoX, Pythia",
    "phi": "Phi-1/2",
    "falcon": "Falcon",
    "mixtral": "Mixtral",
    "qwen2_moe": "Qwen2-MoE",
    "qwen3_moe": "Qwen3-MoE",
    "granitemoe": "Granite-MoE",
    "gpt_oss": "gpt-oss",
    "deepseek_v2": "DeepSeek-V2",
    "deepseek_v3": "DeepSeek-V3",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 (text)",
    "olmo2": "OLMo 2",
    "olmo3": "OLMo 3",
    "glm4": "GLM-4",
}

# Model type, config key and value of what computes something else once a layer has another number.
REFUSED: dict[tuple[str, str, Any], str] = {
    (
        "gpt2",
        "scale_attn_by_inverse_layer_idx",
        True,
    ): "its attention is scaled by the number of the layer"
}
