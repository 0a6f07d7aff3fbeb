"""Pruned checkpoints of many kinds in vLLM: do they say what transformers says of them?

Small models with random weights, their middle layer removed. What was found is in docs/served.json, from
which docs/families.md has its table. It is written anew with

    python -m tests.served > docs/served.json
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from traceback import clear_frames
from typing import Any

import torch
from transformers import AutoConfig

from replaceme.architectures import layer_count
from replaceme.edit import Edit
from replaceme.io.auto import auto_class
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint

PROMPT, NEW_TOKENS = [*range(3, 15)], 12
# Of the largest logit: closer ones may be taken for one another. bfloat16 has 8 bits.
TIES = {"float32": 1e-4, "bfloat16": 2e-2}
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
LATENT = {  # vLLM's kernels for CPUs are compiled for 512 + 64 alone
    "q_lora_rank": 16,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "head_dim": 64,
}
# vLLM's rotary kernel for CPUs is wrong for more where a model gives it heads as an axis of their own.
ONE_HEAD = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1}
DELTA = {
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
MIXED = ["linear_attention", "linear_attention", "full_attention"] * 2
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_TEXT: dict[str, Any] = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
}
QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "phi3": {},
    "gpt2": {},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 16},
    "bloom": {"tie_word_embeddings": True},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "starcoder2": {},
    "gemma2": {"tie_word_embeddings": True},
    "gemma3_text": {},
    "olmo2": {},
    "glm4": {},
    "exaone4": {},
    "cohere2": {"tie_word_embeddings": True},
    "apertus": {},
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS | {"norm_topk_prob": True},
    "olmoe": EXPERTS,
    "granitemoe": EXPERTS,
    "gpt_oss": EXPERTS,
    "ernie4_5_moe": EXPERTS | {"moe_num_experts": 4, "moe_k": 2},
    "llama4_text": EXPERTS
    | {"intermediate_size_mlp": 96, "interleave_moe_layer_step": 1, "num_experts_per_tok": 1},
    "deepseek_v2": EXPERTS | LATENT | {"first_k_dense_replace": 2, "n_group": 1, "topk_group": 1},
    "lfm2": ONE_HEAD
    | {
        "layer_types": ["conv", "conv", "full_attention"] * 2,
        "conv_dim": 64,  # as the releases say beside what transformers reads
        "block_dim": 64,
        "block_auto_adjust_ff_dim": False,
        "tie_word_embeddings": True,
    },
    "lfm2_moe": EXPERTS
    | ONE_HEAD
    | {
        "layer_types": ["conv", "conv", "full_attention"] * 2,
        "num_dense_layers": 2,
        "tie_word_embeddings": True,
    },
    "granitemoehybrid": EXPERTS | MAMBA | {"layer_types": MIXED, "shared_intermediate_size": 32},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 128},
    "nemotron_h": EXPERTS
    | {
        "layer_types": ["linear_attention", "mlp", "full_attention"] * 2,
        "mamba_num_heads": 4,
        "mamba_head_dim": 32,
        "ssm_state_size": 16,
        "n_groups": 1,
    },
    "bamba": MAMBA | {"attn_layer_indices": [1, 4]},
    "jamba": EXPERTS | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 16},
    "mamba2": {
        "num_heads": 4,
        "head_dim": 32,
        "state_size": 16,
        "n_groups": 1,
        "intermediate_size": 128,
    },
    "olmo_hybrid": DELTA | {"layer_types": MIXED},
    "qwen3_next": EXPERTS | DELTA | {"layer_types": MIXED, "shared_expert_intermediate_size": 32},
    "qwen3_5_text": DELTA | {"layer_types": MIXED},
    "idefics3": {"text_config": {"model_type": "llama"}, "vision_config": VISION},
    "smolvlm": {"text_config": {"model_type": "llama"}, "vision_config": VISION},
    "aria": {
        "text_config": EXPERTS
        | {"model_type": "aria_text", "moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
        "vision_config": VISION | {"model_type": "idefics3_vision"},
    },
    "gemma3": {"text_config": {}, "vision_config": VISION},
    "llava": {"text_config": {"model_type": "llama"}, "vision_config": VISION},
    "mistral3": {
        "text_config": {"model_type": "mistral"},
        "vision_config": VISION | {"model_type": "pixtral", "head_dim": 16},
    },
    "qwen2_5_vl": {
        "text_config": QWEN_TEXT,
        "vision_config": QWEN_VISION | {"fullatt_block_indexes": [1]},
    },
    "qwen3_vl": {
        "text_config": QWEN_TEXT,
        "vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0]},
    },
    "llama4": {
        "text_config": EXPERTS,
        "vision_config": VISION,
        "architectures": ["Llama4ForConditionalGeneration"],
    },
}
CUTS = {"jamba": 2}  # layers; its config says by their numbers what they are, in periods of two
DTYPES = dict.fromkeys(["qwen3_next", "qwen3_5_text"], "bfloat16")  # all that vLLM's kernel takes


def prune_small(model_type: str, folder: Path) -> Path:
    """The folder of a small pruned checkpoint."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **small_settings(model_type))
    model = auto_class(config).from_config(config)
    model.to(getattr(torch, DTYPES.get(model_type, "float32"))).save_pretrained(folder / "whole")
    start = layer_count(config.to_dict()) // 2
    block = Block(start, start + CUTS.get(model_type, 1))
    write_checkpoint(folder / "whole", folder / "pruned", Edit((block,)), None)
    return folder / "pruned"


def small_settings(model_type: str) -> dict[str, Any]:
    """Those of a config; of one with images, the small sizes are its language model's."""
    settings = FAMILIES[model_type]
    if "text_config" not in settings:
        return SIZES | settings
    tokens = {"image_token_id": 500, "video_token_id": 501, "vision_start_token_id": 502}
    tokens |= {"image_token_index": 500}
    return tokens | settings | {"text_config": SIZES | settings["text_config"]}


@torch.no_grad()
def greedy_logits(folder: Path) -> torch.Tensor:
    """transformers' logits before each of its greedy tokens, [tokens, vocabulary]."""
    auto = auto_class(AutoConfig.from_pretrained(folder))
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    tokens, found = [*PROMPT], []
    for _ in range(NEW_TOKENS):
        found.append(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1])
        tokens.append(int(found[-1].argmax()))
    return torch.stack(found)


def leaves_path(logits: torch.Tensor, tokens: list[int], tie: float) -> bool:
    """Whether tokens are others than the greedy ones, up to a near tie that is decided otherwise."""
    for row, token in zip(logits, tokens, strict=True):
        if int(row.argmax()) != token:
            return bool(row.max() - row[token] > tie * row.abs().max())
    return False


def write_tokens(name: str, folder: Path) -> list[int]:
    """Greedy tokens of a fresh engine in this process."""
    from vllm import LLM, SamplingParams

    none = {"image": 0, "video": 0}
    engine = LLM(
        str(folder),
        skip_tokenizer_init=True,
        dtype=DTYPES.get(name, "float32"),
        enforce_eager=True,
        kv_cache_memory_bytes=1 << 27,
        max_model_len=128,
        limit_mm_per_prompt=none if "text_config" in FAMILIES[name] else {},
    )
    greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False)
    (answer,) = engine.generate({"prompt_token_ids": PROMPT}, greedy, use_tqdm=False)
    return [*answer.outputs[0].token_ids]


def release_engine() -> None:
    """Make way for another; one that is still held would take its process groups away later."""
    from vllm.distributed import cleanup_dist_env_and_memory

    gc.collect()
    cleanup_dist_env_and_memory()


def describe(
    name: str, folders: tuple[Path, Path], logits: tuple[torch.Tensor, torch.Tensor]
) -> bool | str:
    """Whether vLLM's tokens are those of transformers, or why not.

    It does not run the model, or says other tokens of the intact one too.

    Args:
        folders: of the pruned model and of the intact one; ``logits`` likewise.
    """
    tie, answers = TIES[DTYPES.get(name, "float32")], []
    for folder, rows in zip(folders, logits, strict=True):
        try:
            answers.append(not leaves_path(rows, write_tokens(name, folder), tie))
        except Exception as error:
            clear_frames(error.__traceback__)
            return tell_reason(error, folder)
        finally:
            release_engine()
    same, intact = answers
    return same if intact else "other tokens than transformers of the intact model too"


def tell_reason(error: Exception, folder: Path) -> str:
    """The first sentence of an error that says something."""
    lines = (str(error).strip() or repr(error)).splitlines()
    if any("failed to be inspected" in line for line in lines):
        lines = [repr_import_error(folder)]
    return lines[0].partition(". ")[0]


def repr_import_error(folder: Path) -> str:
    """Why vLLM cannot import the class of a checkpoint, which it says in its log alone."""
    from vllm import ModelRegistry

    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    try:
        ModelRegistry.models[name].load_model_cls()
    except ImportError as error:
        return str(error)
    raise AssertionError(name)


def describe_all(names: list[str]) -> dict[str, bool | str]:
    """First all that transformers says: vLLM changes some of its classes when it is imported."""
    with tempfile.TemporaryDirectory() as root:
        pruned = {name: prune_small(name, Path(root) / name) for name in names}
        folders = {name: (folder, folder.with_name("whole")) for name, folder in pruned.items()}
        logits = {name: (greedy_logits(a), greedy_logits(b)) for name, (a, b) in folders.items()}
        return {name: describe(name, folders[name], logits[name]) for name in names}


if __name__ == "__main__":
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "CRITICAL"}
    print(json.dumps(describe_all(sys.argv[1:] or [*FAMILIES]), indent=1))
