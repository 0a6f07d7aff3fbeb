"""A model as another one is built, with all its layers, but small and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replaceme.architectures.per_layer import is_numbered
from replaceme.io.quiet import silence

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

VOCABULARY, WIDTH, INNER, HEADS, HEAD, POSITIONS, EXPERTS = 128, 32, 48, 4, 8, 64, 4
SPREAD = 0.2  # of the weights, so that no number is too small to be told from rounding

# Names of sizes in the configs of transformers. All other settings stay as they are.
NAMES: list[tuple[int, str]] = [
    (VOCABULARY, "vocab_size vocab_size_per_layer_input ngram_vocab_size_base"),
    (VOCABULARY, "encoder_hash_byte_group_vocab"),
    (WIDTH, "hidden_size d_model n_embd dim emb_dim embedding_size lru_width word_embed_proj_dim"),
    (WIDTH, "embedding_dim"),
    (INNER, "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size dff"),
    (INNER, "intermediate_size_mlp feed_forward_size dim_ff dense_intermediate_size"),
    (INNER, "shared_intermediate_size"),
    (INNER // 3, "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size"),
    (INNER // 3, "moe_shared_expert_intermediate_size hidden_size_per_layer_input adapter_rank"),
    (INNER // 3, "kv_lora_rank q_lora_rank o_lora_rank"),
    (HEADS, "num_attention_heads n_head n_heads decoder_attention_heads encoder_attention_heads"),
    (HEADS, "num_heads index_n_heads linear_num_value_heads swa_num_attention_heads"),
    (HEADS, "linear_num_heads"),
    (HEADS // 2, "num_key_value_heads num_kv_heads linear_num_key_heads swa_num_key_value_heads"),
    (HEADS // 2, "mamba_n_groups n_groups mamba_ngroups"),
    (HEAD, "head_dim v_head_dim qk_nope_head_dim index_head_dim linear_key_head_dim kv_channels"),
    (HEAD, "linear_value_head_dim attention_head_size swa_head_dim d_head linear_head_dim"),
    (HEAD // 2, "qk_rope_head_dim rotary_dim"),
    (POSITIONS, "max_position_embeddings n_positions n_ctx max_seq_len context_length"),
    (POSITIONS, "original_max_position_embeddings"),
    (EXPERTS, "num_experts n_routed_experts num_local_experts moe_num_experts"),
    (1, "n_group topk_group num_expert_group"),
]
SIZES = {name: size for size, names in NAMES for name in names.split()}
CHOSEN = ("num_experts_per_tok", "moe_topk", "num_experts_per_token", "moe_k")
STATE = 16  # of a state-space model
STRETCHED = {
    *("rope_type", "type", "factor", "short_factor", "long_factor", "attention_factor"),
    *("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
}


def build_small(
    config: PreTrainedConfig, build: Callable[[PreTrainedConfig], PreTrainedModel]
) -> PreTrainedModel:
    """A small model whose layers are those of ``config``, float32, in evaluation mode.

    Args:
        build: makes a model of a config.

    Raises:
        Exception: what ``build`` raises where a model of its class cannot be so small.
    """
    import torch

    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with silence(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build(shrink(config)).float().eval()
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.data.normal_(0, SPREAD)
                else:
                    parameter.data.add_(0.5 * SPREAD * torch.randn_like(parameter))
    finally:
        torch.set_default_dtype(usual)
    return model


def shrink(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config with small sizes and the same layers."""
    return type(config).from_dict(shrunk(config.to_dict()))


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """A config's dictionary with small sizes; configs inside it likewise."""
    small = {key: _shrink_value(key, value) for key, value in config.items()}
    small.pop("quantization_config", None)
    heads = next((small[key] for key in ("num_attention_heads", "n_head") if key in small), HEADS)
    for key in ("num_key_value_heads", "num_kv_heads"):
        if key in config and config[key] == config.get("num_attention_heads"):
            small[key] = heads
    if isinstance(config.get("kv_lora_rank"), int):
        small |= {"num_key_value_heads": heads}
        if "head_dim" in small:
            small["head_dim"] = small["qk_rope_head_dim"]
        if "qk_head_dim" in small:
            small["qk_head_dim"] = small["qk_nope_head_dim"] + small["qk_rope_head_dim"]
    if isinstance(wide := config.get("attention_hidden_size"), int):  # a multiple of the width
        small["attention_hidden_size"] = WIDTH * (wide // config["hidden_size"])
        small["attention_head_dim"] = small["attention_hidden_size"] // heads
    return small | _shrink_state_space(config)


def _shrink_value(key: Any, value: Any) -> Any:
    if is_numbered(value):
        return {
            number: {k: _shrink_otherwise(k, v) for k, v in own.items()} for number, own in value.items()
        }
    if isinstance(value, dict):
        if "rope_type" in value or "rope_theta" in value:
            return _plain_rope(value)
        return (
            shrunk(value)
            if "model_type" in value
            else {k: _shrink_value(k, v) for k, v in value.items()}
        )
    if key in SIZES and isinstance(value, list):
        return [_shrink_value(key, part) for part in value]
    if isinstance(value, bool) or not isinstance(value, int) or not isinstance(key, str):
        return value
    if key in CHOSEN:
        return min(value, 2)
    if key.endswith(("_token_id", "_token_index")):
        return min(value, VOCABULARY - 1)
    return SIZES.get(key, value)


def _shrink_otherwise(key: Any, value: Any) -> Any:
    """A size that some layers have, and others not."""
    small = _shrink_value(key, value)
    return 2 * small if small != value and isinstance(value, int) else small


def _plain_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """Rotary embeddings without what stretches them, which no layer depends on."""
    plain = {key: value for key, value in rope.items() if key not in STRETCHED}
    half = int(HEAD * rope.get("partial_rotary_factor", 1)) // 2
    sections = [half - 2 * (half // 3), half // 3, half // 3]  # of time, height and width
    return {"rope_type": "default", **plain, "mrope_section": sections}


def _shrink_state_space(config: dict[str, Any]) -> dict[str, Any]:
    """Heads of state-space layers, which are as wide together as the width times an expansion."""
    sizes: dict[str, Any] = {}
    for heads, head, expand in (
        ("mamba_n_heads", "mamba_d_head", "mamba_expand"),
        ("mamba_num_heads", "mamba_head_dim", "expand"),
        ("num_heads", "head_dim", "expand"),
        ("n_mamba_heads", "mamba_headdim", "mamba_expand"),
    ):
        if all(key in config for key in (heads, head, expand)):
            wide = int(config[expand] * WIDTH)
            sizes |= {heads: HEADS, head: wide // HEADS}
            if config.get("mamba_d_ssm"):
                sizes["mamba_d_ssm"] = wide
    for key in ("mamba_chunk_size", "chunk_size"):
        if key in config:
            sizes[key] = 8
    for key in ("mamba_d_state", "state_size", "ssm_state_size"):
        if key in config:
            sizes[key] = STATE
    return sizes
