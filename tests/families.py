"""A small random model of every family of the table, in all its variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from replaceme.architectures import Architecture, architecture_of_model

WIDTH = 32
LAYERS = 6
SIZES = {
    "vocab_size": 512,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
GATED = {"intermediate_size": 48, "num_key_value_heads": 1, "head_dim": 16}
WINDOW = {"sliding_window": 8}
SOME_WINDOWS = {"use_sliding_window": True, "sliding_window": 8}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
LATENT = {
    "intermediate_size": 48,
    "q_lora_rank": 12,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 3,
}


@dataclass(frozen=True)
class Family:
    """A row of the table with the settings of a small model.

    Attributes:
        mlp: the module of a layer whose output the layer adds, times ``multiplier``, to its state.
    """

    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)
    mlp: str = "mlp"
    multiplier: float = 1.0


ALL_SOLVERS = {
    "llama": Family("llama", GATED | {"mlp_bias": True}),
    "mistral": Family("mistral", GATED | WINDOW),
    "qwen2": Family("qwen2", GATED | SOME_WINDOWS | {"max_window_layers": 3}),
    "qwen3": Family("qwen3", GATED | SOME_WINDOWS | {"max_window_layers": 3}),
    "phi3": Family("phi3", GATED | WINDOW),
    "olmo": Family("olmo", GATED),
    "smollm3": Family("smollm3", GATED | SOME_WINDOWS),
    "gemma": Family("gemma", GATED),
    "granite": Family("granite", GATED | {"residual_multiplier": 0.4, "mlp_bias": True}, multiplier=0.4),
    "starcoder2": Family("starcoder2", GATED | WINDOW),
    "cohere": Family("cohere", GATED | {"use_qk_norm": True, "logit_scale": 1.0}),
    "gpt2": Family("gpt2", {"n_inner": 48}),
    "opt": Family("opt", {"ffn_dim": 48, "word_embed_proj_dim": 16, "init_std": 0.15}, mlp="fc2"),
    "gpt_neox": Family("gpt_neox", {"intermediate_size": 48}),
    "gpt_neox-sequential": Family("gpt_neox", {"intermediate_size": 48, "use_parallel_residual": False}),
    "phi": Family("phi", {"intermediate_size": 48}),
    "falcon": Family("falcon", {"ffn_hidden_size": 48, "bias": True}),
    "falcon-new": Family(
        "falcon", {"ffn_hidden_size": 48, "new_decoder_architecture": True, "num_kv_heads": 1}
    ),
    "falcon-sequential": Family(
        "falcon",
        {
            "ffn_hidden_size": 48,
            "bias": True,
            "alibi": True,
            "parallel_attn": False,
            "multi_query": False,
        },
    ),
}
TRANSFORMS = {
    "mixtral": Family("mixtral", GATED | EXPERTS | WINDOW),
    "qwen2_moe": Family(
        "qwen2_moe",
        GATED
        | EXPERTS
        | SOME_WINDOWS
        | {
            "shared_expert_intermediate_size": 24,
            "max_window_layers": 4,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
        },
    ),
    "qwen3_moe": Family("qwen3_moe", GATED | EXPERTS | {"mlp_only_layers": [0, 2, 3]}),
    "granitemoe": Family(
        "granitemoe",
        GATED | EXPERTS | {"residual_multiplier": 0.4},
        mlp="block_sparse_moe",
        multiplier=0.4,
    ),
    "gpt_oss": Family(
        "gpt_oss", GATED | EXPERTS | WINDOW | {"rope_parameters": {"rope_type": "default"}}
    ),
    "deepseek_v2": Family("deepseek_v2", LATENT),
    "deepseek_v3": Family("deepseek_v3", LATENT | {"n_group": 2, "topk_group": 1}),
}
DIAGONAL = {
    "gemma2": Family("gemma2", GATED | WINDOW, mlp="post_feedforward_layernorm"),
    "gemma3_text": Family(
        "gemma3_text", GATED | WINDOW | {"sliding_window_pattern": 3}, mlp="post_feedforward_layernorm"
    ),
    "olmo2": Family("olmo2", GATED, mlp="post_feedforward_layernorm"),
    "olmo3": Family("olmo3", GATED | WINDOW, mlp="post_feedforward_layernorm"),
    "glm4": Family("glm4", GATED, mlp="post_mlp_layernorm"),
}
FAMILIES = ALL_SOLVERS | TRANSFORMS | DIAGONAL


def small(model_type: str, **settings: Any) -> Any:
    """A random model whose biases and norm weights are random too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(SIZES | settings))
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 or name.endswith("bias"):
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def measured(model: Any) -> Architecture:
    return architecture_of_model(model, "the model")


@torch.no_grad()
def last_states(model: Any, sequences: list[list[int]], layer: int) -> Tensor:
    """[tokens, d] float64 behind a layer, of sequences that are run alone."""
    seen: list[Tensor] = []
    hook = lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)  # noqa: E731
    handle = model.model.layers[layer].register_forward_hook(hook)
    for ids in sequences:
        model(torch.tensor([ids]), use_cache=False)
    handle.remove()
    return torch.cat([states[0] for states in seen]).double()


def stored_in(dtype: torch.dtype) -> Callable[[int, str, Tensor], Tensor]:
    """What a checkpoint in a dtype holds of a parameter."""
    return lambda _layer, _tensor, parameter: parameter.data.to(dtype)


def near_identity(diagonal: bool, seed: int) -> Tensor:
    noise = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    change = noise.diagonal().diag() if diagonal else noise
    return torch.eye(WIDTH, dtype=torch.float64) + 0.1 * change
