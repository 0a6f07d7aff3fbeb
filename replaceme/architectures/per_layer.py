"""Settings of a config that say how many layers there are, and how each differs from the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from replaceme.errors import InputError

if TYPE_CHECKING:
    from replaceme.architectures.architecture import Architecture

OUTPUT_MATRICES = {"lm_head.weight", "embed_out.weight"}
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_blocks")
COUNTED = ("layers_block_type", "layer_types")  # lists that say the number where nothing else does
CYCLES = ("block_types", "_block_types")  # kinds of layers that are repeated
NOT_LAYERS = {"architectures", "mrope_section", "eos_token_id", "suppress_tokens", "rope_section"}
# That many first, or last, layers are different.
FIRST_LAYERS = (
    *("max_window_layers", "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"),
)
LAST_LAYERS = ("num_kv_shared_layers",)
LAST_NUMBERS = ("moe_layer_end_index",)  # the number of the last layer that is different
LAYER_NUMBERS = ("mlp_only_layers", "attn_layer_indices", "moe_layers", "full_attn_idxs")
# Numbers of layers behind the last one that predict further tokens; transformers does not load them.
EXTRA_LAYERS = ("num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers")
# Periods, which no longer hold once layers are missing; what they mean is written out.
PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern", "full_attention_interval")
TEXT = "text_config"


def text_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the language model: the config, or the one inside it of a multimodal model."""
    inner = config.get(TEXT)
    return dict(inner) if isinstance(inner, Mapping) and not _declares(config) else dict(config)


def layer_count(config: Mapping[str, Any]) -> int:
    """Number of decoder layers that a config declares.

    Raises:
        InputError: it declares none.
    """
    settings = text_settings(_write_out_count(config))
    for key in COUNTS:
        if isinstance(count := settings.get(key), int):
            return count
    for key in COUNTED:
        if isinstance(kinds := settings.get(key), list):
            return len(kinds)
    raise InputError(f"the config of {config.get('model_type')!r} has no {' or '.join(COUNTS)}.")


def _write_out_count(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the number of its language model's layers, which many that hold such a model leave
    to the defaults of its class."""
    inner, said = config.get(TEXT), dict(config)
    if _declares(config) or not isinstance(inner, Mapping) or _declares(inner):
        return said
    from transformers import CONFIG_MAPPING

    if (kind := config.get("model_type")) in CONFIG_MAPPING:
        usual = CONFIG_MAPPING[kind].from_dict(dict(config)).get_text_config().to_dict()
        said[TEXT] = {**inner, **{key: usual[key] for key in COUNTS if key in usual}}
    return said


def pruned_config(config: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """A copy of a config dictionary with the layers ``kept`` alone, per-layer settings included.

    What transformers would derive from the number of a layer is written out before it changes.
    """
    pruned = _write_out_count(config)
    inner = pruned.get(TEXT)
    if isinstance(inner, Mapping) and _declares(inner) and layer_count(inner) == layer_count(config):
        pruned[TEXT] = _prune_settings(dict(inner), kept)
    return _prune_settings(pruned, kept) if _declares(config) else pruned


def _declares(config: Mapping[str, Any]) -> bool:
    """Whether a config itself says how many layers there are, and not one inside it."""
    return any(isinstance(config.get(key), int) for key in COUNTS) or any(
        isinstance(config.get(key), list) for key in COUNTED
    )


def _prune_settings(config: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    count = layer_count(config)
    pruned = config | _derive_settings(config, count)
    sparse_step = pruned.get("decoder_sparse_step")
    if isinstance(sparse_step, int) and sparse_step > 1:
        dense = {i for i in range(count) if (i + 1) % sparse_step} | set(
            pruned.get("mlp_only_layers") or []
        )
        pruned |= {"decoder_sparse_step": 1, "mlp_only_layers": sorted(dense)}
    for key, value in pruned.items():
        if key in COUNTS:
            pruned[key] = len(kept)
        elif key in FIRST_LAYERS and isinstance(value, int):
            pruned[key] = sum(i < value for i in kept)
        elif key in LAST_LAYERS and isinstance(value, int):
            pruned[key] = sum(i >= count - value for i in kept)
        elif key in LAST_NUMBERS and isinstance(value, int) and value >= 0:
            pruned[key] = sum(i <= value for i in kept) - 1
        elif key in LAYER_NUMBERS and isinstance(value, list):
            pruned[key] = [kept.index(i) for i in value if i in kept]
        elif key in CYCLES and isinstance(value, list):
            pruned[key] = [value[i % len(value)] for i in kept]
        elif key == "scale_depth" and isinstance(value, float | int):  # over √(number of layers)
            pruned[key] = value * (len(kept) / count) ** 0.5
        elif _runs_along_layers(key, value, count):
            pruned[key] = [value[i] for i in kept]
        elif is_numbered(value):
            pruned[key] = {str(kept.index(int(i))): v for i, v in value.items() if int(i) in kept}
        elif key.endswith("_pattern") and isinstance(value, str) and len(value) == count:
            pruned[key] = "".join(value[i] for i in kept)
    for key in PATTERNS:
        pruned.pop(key, None)
    return pruned


def is_numbered(value: Any) -> bool:
    """Whether a setting is a dictionary with what is different in some layers, by their numbers."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(str(key).isdecimal() and isinstance(part, Mapping) for key, part in value.items())
    )


def _runs_along_layers(key: str, value: Any, count: int) -> bool:
    """Whether a setting is a list with a value for each layer."""
    if key in NOT_LAYERS or not isinstance(value, list) or len(value) != count:
        return False
    return all(isinstance(part, str | int | float | None) for part in value)


def _derive_settings(config: dict[str, Any], count: int) -> dict[str, Any]:
    """Per-layer settings that the config's class adds where the file leaves them out or null."""
    from transformers import CONFIG_MAPPING

    if config.get("model_type") not in CONFIG_MAPPING:
        return {}
    whole = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config)).to_dict()
    single = (*FIRST_LAYERS, *LAST_LAYERS, *LAST_NUMBERS, *LAYER_NUMBERS)
    return {
        key: value
        for key, value in whole.items()
        if config.get(key) is None
        and value is not None
        and (key in single or _runs_along_layers(key, value, count))
    }


def check_present(
    architecture: Architecture, config: dict[str, Any], where: str, tensors: Collection[str]
) -> None:
    """Refuse files whose names alone tell that a layer or the output matrix is not there.

    Raises:
        InputError: naming the tensors.
    """
    found = {part[1] for name in tensors if (part := architecture.split(name))}
    lacking = [
        f"{architecture.layers}.{layer}.*" for layer in range(layer_count(config)) if layer not in found
    ]
    if config.get("tie_word_embeddings") is False and not OUTPUT_MATRICES & {*tensors}:
        lacking.append("lm_head.weight")
    if lacking:
        raise InputError(f"{where} is not whole: its weights lack {', '.join(lacking[:5])}.")
