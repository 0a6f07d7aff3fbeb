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
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from replaceme.architectures import layer_count
from replaceme.edit import Edit
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint

PROMPT, NEW_TOKENS = [*range(3, 15)], 12
TIE = 1e-4  # of the largest logit: closer ones may be taken for one another
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
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
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
    "mixtral": {},
    "qwen3_moe": {"norm_topk_prob": True},
    "olmoe": {},
    "granitemoe": {},
    "gpt_oss": {},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2},
    "deepseek_v2": {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 32,
        "first_k_dense_replace": 2,
        "head_dim": 16,
    },
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"] * 2},
    "bamba": {
        "mamba_n_heads": 4,
        "mamba_d_head": 32,
        "mamba_d_state": 16,
        "attn_layer_indices": [1, 4],
    },
    "mamba2": {"num_heads": 4, "head_dim": 32, "state_size": 16, "n_groups": 1},
    "qwen3_5_text": {},
}


def prune_small(model_type: str, folder: Path) -> Path:
    """The folder of a small pruned checkpoint."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(SIZES | FAMILIES[model_type]))
    model = AutoModelForCausalLM.from_config(config).float().eval()
    model.save_pretrained(folder / "whole")
    middle = layer_count(config.to_dict()) // 2
    write_checkpoint(folder / "whole", folder / "pruned", Edit((Block(middle, middle + 1),)), None)
    return folder / "pruned"


@torch.no_grad()
def greedy_logits(folder: Path) -> torch.Tensor:
    """transformers' logits before each of its greedy tokens, [tokens, vocabulary]."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens, found = [*PROMPT], []
    for _ in range(NEW_TOKENS):
        found.append(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1])
        tokens.append(int(found[-1].argmax()))
    return torch.stack(found)


def leaves_path(logits: torch.Tensor, tokens: list[int]) -> bool:
    """Whether tokens are others than the greedy ones, up to a near tie that is decided otherwise."""
    for row, token in zip(logits, tokens, strict=True):
        if int(row.argmax()) != token:
            return bool(row.max() - row[token] > TIE * row.abs().max())
    return False


def write_tokens(folder: Path) -> list[int]:
    """Greedy tokens of a fresh engine in this process."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    engine = LLM(
        str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        kv_cache_memory_bytes=1 << 27,
        max_model_len=128,
    )
    greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False)
    (answer,) = engine.generate({"prompt_token_ids": PROMPT}, greedy, use_tqdm=False)
    tokens = [*answer.outputs[0].token_ids]
    del engine
    cleanup_dist_env_and_memory()
    gc.collect()
    return tokens


def describe(folders: tuple[Path, Path], logits: tuple[torch.Tensor, torch.Tensor]) -> bool | str:
    """Whether vLLM's tokens are those of transformers, or why not.

    It does not run the model, or says other tokens of the intact one too.

    Args:
        folders: of the pruned model and of the intact one; ``logits`` likewise.
    """
    try:
        same, intact = (
            not leaves_path(rows, write_tokens(folder))
            for folder, rows in zip(folders, logits, strict=True)
        )
    except Exception as error:
        return (str(error).strip() or repr(error)).splitlines()[0].partition(". ")[0]
    return same if intact else "other tokens than transformers of the intact model too"


def describe_all(names: list[str]) -> dict[str, bool | str]:
    """First all that transformers says: vLLM changes some of its classes when it is imported."""
    with tempfile.TemporaryDirectory() as root:
        pruned = {name: prune_small(name, Path(root) / name) for name in names}
        folders = {name: (folder, folder.with_name("whole")) for name, folder in pruned.items()}
        logits = {name: (greedy_logits(a), greedy_logits(b)) for name, (a, b) in folders.items()}
        return {name: describe(folders[name], logits[name]) for name in names}


if __name__ == "__main__":
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "CRITICAL"}
    print(json.dumps(describe_all(sys.argv[1:] or [*FAMILIES]), indent=1))
