"""Where a model keeps what depth pruning touches: one row per family, nothing else knows a family.

Module paths are relative to the model (``layers``, ``final_norm``) or to a decoder layer (the rest),
and are also prefixes of tensor names in a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from replaceme.errors import InputError

if TYPE_CHECKING:
    from torch import nn

Axis = Literal[-1, -2, "scale"]


@dataclass(frozen=True)
class Architecture:
    """Names inside one model family.

    Attributes:
        title: models of the family, for people.
        layers: list of decoder layers.
        final_norm: norm after the last layer.
        attention_output: projection that ends the attention.
        mlp: module whose output is M, up to the residual multiplier.
        outputs: tensors that M depends on linearly and that a transform is merged into, ``*`` for an
            expert's number; names in memory and in files. Empty: the module ``mlp`` itself.
        input_major: weights are stored (in, out) instead of (out, in).
        post_norm: the module ``mlp`` is a norm after the MLP, so that only a diagonal can be merged.
        norm_offset: the norm multiplies by this plus its weight.
        residual_multiplier: config key of the factor of M in the residual stream.
        parallel: attention and MLP read the same state: always, or where one of these config keys is
            set.
        refused: config key and value of variants that cannot be pruned, with the reason.
        notice: what the user should know of how the family was recognised.
    """

    title: str
    layers: str = "model.layers"
    final_norm: str = "model.norm"
    attention_output: str = "self_attn.o_proj"
    mlp: str = "mlp.down_proj"
    outputs: tuple[str, ...] = ()
    input_major: bool = False
    post_norm: bool = False
    norm_offset: float = 0.0
    residual_multiplier: str | None = None
    parallel: bool | tuple[str, ...] = False
    refused: dict[tuple[str, Any], str] = field(default_factory=dict)
    notice: str | None = None

    @property
    def experts(self) -> bool:
        """Whether M is the sum of several experts, so that there is no single output projection."""
        return bool(self.outputs)

    def decoder_layers(self, model: nn.Module) -> nn.ModuleList:
        return model.get_submodule(self.layers)  # type: ignore[return-value]

    @contextmanager
    def only_layers(self, model: nn.Module, numbers: Iterable[int]) -> Iterator[None]:
        """The model with some of its decoder layers for as long as the context lasts."""
        from torch import nn

        parent_name, _, name = self.layers.rpartition(".")
        parent, layers = model.get_submodule(parent_name), self.decoder_layers(model)
        setattr(parent, name, nn.ModuleList([layers[number] for number in numbers]))
        try:
            yield
        finally:
            setattr(parent, name, layers)

    def split(self, tensor: str) -> tuple[str, int, str] | None:
        """(prefix, layer, rest) of a tensor's name inside a decoder layer, else ``None``.

        Some files leave out the first part of the path (``h.0.…`` for ``transformer.h.0.…``).
        """
        match = self._layer_tensor.fullmatch(tensor)
        return (match[1], int(match[2]), match[3]) if match else None

    @cached_property
    def _layer_tensor(self) -> re.Pattern[str]:
        first, _, rest = self.layers.partition(".")
        return re.compile(rf"((?:{first}\.)?{re.escape(rest)}\.)(\d+)\.(.+)")

    def merge_axis(self, tensor: str) -> Axis | None:
        """How a transform is merged into a tensor of a decoder layer; ``None``: not at all.

        -2 is the output axis of a weight (…, out, in), -1 that of (…, in, out) and of a bias (…, out);
        ``scale`` is the weight of a norm, which takes the diagonal of the transform.
        """
        for pattern in self.outputs or (self.mlp,):
            name = re.escape(pattern).replace(r"\*", r"\d+")
            if match := re.fullmatch(rf"{name}(\.weight|\.bias|_bias|)", tensor):
                if self.post_norm:
                    return "scale"
                return -1 if self.input_major or match[1].endswith("bias") else -2
        return None

    def is_parallel(self, config: dict[str, Any]) -> bool:
        if isinstance(self.parallel, bool):
            return self.parallel
        return any(config.get(key, True) for key in self.parallel)

    def multiplier(self, config: dict[str, Any]) -> float:
        return float(config.get(self.residual_multiplier or "", 1.0))


_QWEN_EXPERTS = ("mlp.experts.*.down_proj", "mlp.experts.down_proj", "mlp.down_proj")

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("Llama 2/3.x, SmolLM2"),
    "mistral": Architecture("Mistral"),
    "qwen2": Architecture("Qwen2"),
    "qwen3": Architecture("Qwen3"),
    "phi3": Architecture("Phi-3"),
    "olmo": Architecture("OLMo"),
    "smollm3": Architecture("SmolLM3"),
    "gemma": Architecture("Gemma"),
    "granite": Architecture("Granite", residual_multiplier="residual_multiplier"),
    "starcoder2": Architecture("StarCoder2", mlp="mlp.c_proj"),
    "cohere": Architecture("Command R", parallel=True),
    "gpt2": Architecture(
        "GPT-2",
        layers="transformer.h",
        final_norm="transformer.ln_f",
        attention_output="attn.c_proj",
        mlp="mlp.c_proj",
        input_major=True,
        refused={
            (
                "scale_attn_by_inverse_layer_idx",
                True,
            ): "its attention is scaled by the number of the layer"
        },
    ),
    "opt": Architecture(
        "OPT",
        layers="model.decoder.layers",
        final_norm="model.decoder.final_layer_norm",
        attention_output="self_attn.out_proj",
        mlp="fc2",
        refused={
            ("do_layer_norm_before", False): "the norm final_layer_norm follows the residual addition"
        },
    ),
    "gpt_neox": Architecture(
        "GPT-NeoX, Pythia",
        layers="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        attention_output="attention.dense",
        mlp="mlp.dense_4h_to_h",
        parallel=("use_parallel_residual",),
    ),
    "phi": Architecture(
        "Phi-1/2",
        final_norm="model.final_layernorm",
        attention_output="self_attn.dense",
        mlp="mlp.fc2",
        parallel=True,
    ),
    "falcon": Architecture(
        "Falcon",
        layers="transformer.h",
        final_norm="transformer.ln_f",
        attention_output="self_attention.dense",
        mlp="mlp.dense_4h_to_h",
        parallel=("new_decoder_architecture", "parallel_attn"),
    ),
    "mixtral": Architecture(
        "Mixtral", mlp="mlp", outputs=("block_sparse_moe.experts.*.w2", "mlp.experts.down_proj")
    ),
    "qwen2_moe": Architecture(
        "Qwen2-MoE", mlp="mlp", outputs=(*_QWEN_EXPERTS, "mlp.shared_expert.down_proj")
    ),
    "qwen3_moe": Architecture("Qwen3-MoE", mlp="mlp", outputs=_QWEN_EXPERTS),
    "granitemoe": Architecture(
        "Granite-MoE",
        mlp="block_sparse_moe",
        outputs=("block_sparse_moe.output_linear", "block_sparse_moe.experts.down_proj"),
        residual_multiplier="residual_multiplier",
    ),
    "gpt_oss": Architecture("gpt-oss", mlp="mlp", outputs=("mlp.experts.down_proj",), input_major=True),
    "deepseek_v2": Architecture(
        "DeepSeek-V2", mlp="mlp", outputs=(*_QWEN_EXPERTS, "mlp.shared_experts.down_proj")
    ),
    "deepseek_v3": Architecture(
        "DeepSeek-V3", mlp="mlp", outputs=(*_QWEN_EXPERTS, "mlp.shared_experts.down_proj")
    ),
    "gemma2": Architecture("Gemma 2", mlp="post_feedforward_layernorm", post_norm=True, norm_offset=1.0),
    "gemma3_text": Architecture(
        "Gemma 3 (text)", mlp="post_feedforward_layernorm", post_norm=True, norm_offset=1.0
    ),
    "olmo2": Architecture("OLMo 2", mlp="post_feedforward_layernorm", post_norm=True),
    "olmo3": Architecture("OLMo 3", mlp="post_feedforward_layernorm", post_norm=True),
    "glm4": Architecture("GLM-4", mlp="post_mlp_layernorm", post_norm=True),
}

UNSUPPORTED = {
    r".*mamba\d?|rwkv\d?|xlstm": "a state-space model without attention",
    r"jamba|bamba|zamba2?|falcon_h1|nemotron_h|granitemoehybrid|recurrent_gemma|qwen3_next|lfm2.*|"
    r".*hybrid.*|minimax|plamo2|kimi_linear": "a hybrid, whose layers are not all attention and MLP",
}

LLAMA_MODULES = {
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj")),
    *("self_attn.q_norm", "self_attn.k_norm"),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "gate_up_proj", "down_proj")),
    *("input_layernorm", "post_attention_layernorm"),
}
LLAMA_NEEDED = {"self_attn.o_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"}


def architecture_of(
    config: dict[str, Any], where: str, tensors: Collection[str] | None = None
) -> Architecture:
    """The row for a config (the dictionary of ``config.json``).

    Args:
        where: names the model in errors.
        tensors: names of the model's tensors, by which an unknown family that has the layout of Llama
            is recognised; ``None`` where they are not known yet, which lets such a family pass.

    Raises:
        InputError: the family is not in the table nor like Llama, or the weights are quantised.
    """
    model_type = str(config.get("model_type"))
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise InputError(
            f"{where}: the weights are quantised ({method}), and a transform cannot be merged into "
            f"them exactly; use the unquantised checkpoint."
        )
    row = ARCHITECTURES.get(model_type) or _by_structure(config, where, tensors)
    for (key, value), reason in row.refused.items():
        if config.get(key) == value:
            raise InputError(f"{where}: {model_type} with {key}={value} is not supported: {reason}.")
    return row


def _by_structure(config: dict[str, Any], where: str, tensors: Collection[str] | None) -> Architecture:
    model_type = str(config.get("model_type"))
    kind = "an encoder-decoder model" if config.get("is_encoder_decoder") else None
    for pattern, reason in UNSUPPORTED.items():
        kind = kind or (reason if re.fullmatch(pattern, model_type) else None)
    like_llama = Architecture(
        model_type, notice=f"{model_type!r} is not a known family; its layers were recognised as Llama's"
    )
    if kind is None and tensors is not None and _is_like_llama(like_llama, config, tensors):
        return like_llama
    classes = ", ".join(config.get("architectures") or [])
    name = f"{model_type!r} ({classes})" if classes else repr(model_type)
    raise InputError(
        f"{where}: unsupported architecture {name}{f', {kind}' if kind else ''}; supported are models "
        f"with the layers of Llama, and the model types {', '.join(sorted(ARCHITECTURES))}."
    )


def check_present(row: Architecture, config: dict[str, Any], where: str, tensors: set[str]) -> None:
    """Refuse files whose names alone tell that a layer or the output matrix is not there.

    Raises:
        InputError: naming the tensors.
    """
    found = {part[1] for name in tensors if (part := row.split(name))}
    lacking = [f"{row.layers}.{layer}.*" for layer in range(layer_count(config)) if layer not in found]
    if config.get("tie_word_embeddings") is False and not tensors & OUTPUT_MATRICES:
        lacking.append("lm_head.weight")
    if lacking:
        raise InputError(f"{where} is not whole: its weights lack {', '.join(lacking[:5])}.")


def _is_like_llama(row: Architecture, config: dict[str, Any], tensors: Collection[str]) -> bool:
    parts = [part for name in tensors if (part := row.split(name))]
    layer_tensors = [rest for _, layer, rest in parts if layer < layer_count(config)]
    modules = {name.rpartition(".")[0] for name in layer_tensors}
    return modules <= LLAMA_MODULES and modules >= LLAMA_NEEDED and f"{row.final_norm}.weight" in tensors


OUTPUT_MATRICES = {"lm_head.weight", "embed_out.weight"}
COUNTS = ("num_hidden_layers", "n_layer")
PER_LAYER_LISTS = ("layer_types", "no_rope_layers", "mlp_layer_types")
FIRST_LAYERS = ("max_window_layers", "first_k_dense_replace")  # that many first layers are different
LAYER_NUMBERS = ("mlp_only_layers",)
# Numbers of layers behind the last one that predict further tokens; transformers does not load them.
EXTRA_LAYERS = ("num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers")
PATTERNS = ("sliding_window_pattern",)  # periods, which no longer hold once layers are missing


def layer_count(config: dict[str, Any]) -> int:
    """Number of decoder layers that a config declares.

    Raises:
        InputError: it declares none.
    """
    for key in COUNTS:
        if isinstance(count := config.get(key), int):
            return count
    raise InputError(f"the config of {config.get('model_type')!r} has no {' or '.join(COUNTS)}.")


def pruned_config(config: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """A copy of a config dictionary with the layers ``kept`` alone, per-layer settings included.

    What transformers would derive from the number of a layer is written out before it changes.
    """
    count = layer_count(config)
    pruned = config | _derive_settings(config)
    sparse_step = pruned.get("decoder_sparse_step")
    if isinstance(sparse_step, int) and sparse_step > 1:
        dense = {i for i in range(count) if (i + 1) % sparse_step} | set(
            pruned.get("mlp_only_layers") or []
        )
        pruned |= {"decoder_sparse_step": 1, "mlp_only_layers": sorted(dense)}
    for key in COUNTS:
        if key in config:
            pruned[key] = len(kept)
    for key in PER_LAYER_LISTS:
        if isinstance(values := pruned.get(key), list) and len(values) == count:
            pruned[key] = [values[i] for i in kept]
    for key in FIRST_LAYERS:
        if isinstance(first := pruned.get(key), int):
            pruned[key] = sum(i < first for i in kept)
    for key in LAYER_NUMBERS:
        if isinstance(numbers := pruned.get(key), list):
            pruned[key] = [kept.index(i) for i in numbers if i in kept]
    for key in PATTERNS:
        pruned.pop(key, None)
    return pruned


def _derive_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Per-layer settings that the config's class adds where the file leaves them out or null."""
    from transformers import CONFIG_MAPPING

    if config.get("model_type") not in CONFIG_MAPPING:
        return {}
    whole = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config)).to_dict()
    keys = (*PER_LAYER_LISTS, *FIRST_LAYERS, *LAYER_NUMBERS)
    return {key: whole[key] for key in keys if whole.get(key) is not None and config.get(key) is None}


def support_table() -> str:
    """What works on each family, as Markdown."""
    lines = [
        "| family | model type | `uidl`, diagonal transforms | transforms | `refit`, `reconstruct` |",
        "|---|---|:---:|:---:|:---:|",
    ]
    for model_type, row in ARCHITECTURES.items():
        works = (True, not row.post_norm, not row.post_norm and not row.experts)
        cells = [row.title, f"`{model_type}`", *("✓" if cell else "–" for cell in works)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
