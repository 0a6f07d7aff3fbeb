"""Where a model keeps what depth pruning touches: one row per family, nothing else knows a family.

Module paths are also the prefixes of tensor names in a checkpoint.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replaceme.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from replaceme.selection import Block


@dataclass(frozen=True)
class Architecture:
    """Names inside one model family."""

    layers: str = "model.layers"
    mlp_output: str = "mlp.down_proj"
    final_norm: str = "model.norm"

    def decoder_layers(self, model: nn.Module) -> nn.ModuleList:
        return model.get_submodule(self.layers)  # type: ignore[return-value]

    def mlp_output_of(self, layer: nn.Module) -> nn.Module:
        """The projection that ends the MLP of a decoder layer; its output is M."""
        return layer.get_submodule(self.mlp_output)

    def mlp_output_weight(self, layer: int) -> str:
        """Checkpoint name of the weight (out, in) that a transform of layer ``layer`` is merged into."""
        return f"{self.layers}.{layer}.{self.mlp_output}.weight"


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(),
    "mistral": Architecture(),
    "qwen2": Architecture(),
    "qwen3": Architecture(),
}

PER_LAYER_KEYS = ("layer_types",)
# `max_window_layers` (Qwen): that many first layers attend to everything, the rest to a window


def architecture_of(config: dict[str, Any], where: str) -> Architecture:
    """The row for a config (the dictionary of ``config.json``); ``where`` names the model in errors.

    Raises:
        InputError: the family is not in the table, or the weights are quantised.
    """
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        classes = ", ".join(config.get("architectures") or [])
        name = f"{model_type!r} ({classes})" if classes else repr(model_type)
        raise InputError(
            f"{where}: unsupported architecture {name}; supported model types are "
            f"{', '.join(sorted(ARCHITECTURES))}."
        )
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise InputError(
            f"{where}: the weights are quantised ({method}), and a transform cannot be merged into "
            f"them exactly; use the unquantised checkpoint."
        )
    return ARCHITECTURES[model_type]


def pruned_config(config: dict[str, Any], block: Block) -> dict[str, Any]:
    """A copy of a config dictionary without the layers of ``block``, per-layer lists included."""
    pruned = copy.deepcopy(config)
    count = config["num_hidden_layers"]
    pruned["num_hidden_layers"] = count - block.size
    for key in PER_LAYER_KEYS:
        values = config.get(key)
        if isinstance(values, list) and len(values) == count:
            pruned[key] = values[: block.start] + values[block.end :]
    if isinstance(full := config.get("max_window_layers"), int):
        pruned["max_window_layers"] = full - max(0, min(block.end, full) - min(block.start, full))
    return pruned
