"""A model with random weights in place of one that is not loaded, to be timed."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from replaceme.architectures import architecture_of_model
from replaceme.decoder import name_of
from replaceme.io.auto import auto_class


def build_stand_in(
    config: PreTrainedConfig, dtype: torch.dtype, device: str, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The model of a config, in evaluation mode, without what reads images or sound.

    Text does not pass there, and memory is taken only for what is left.

    Args:
        device: a torch device.
    """
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(config).from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    _drop_towers(model, architecture_of_model(model, name_of(model)).decoder_layers(model))
    model.to_empty(device=device)
    model.init_weights()
    return model.eval()


def _drop_towers(module: nn.Module, layers: nn.ModuleList) -> None:
    """Take models out of a module that do not hold the decoder layers."""
    for name, child in module.named_children():
        if isinstance(child, PreTrainedModel) and layers not in child.modules():
            setattr(module, name, nn.Identity())
        elif child is not layers:
            _drop_towers(child, layers)
