"""What pruning changes in a model, and how it is done to a loaded one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from replaceme.architectures import Architecture, Axis, pruned_config
from replaceme.selection import Block

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Edit:
    """What pruning does to a model; layers are numbered as in the intact model.

    Attributes:
        blocks: layers to remove, in ascending order, without overlap.
        transforms: layer → T [d, d] float64, merged into whatever ends the layer's MLP.
        weights: (layer, tensor) → new values in the tensor's shape, such as
            ``(12, "mlp.down_proj.weight")``; they are rounded to the model's dtype.
    """

    blocks: tuple[Block, ...] = ()
    transforms: dict[int, Tensor] = field(default_factory=dict)
    weights: dict[tuple[int, str], Tensor] = field(default_factory=dict)

    def kept(self, layers: int) -> list[int]:
        """Numbers of the layers that stay, of a model of ``layers`` layers."""
        return [i for i in range(layers) if not any(b.start <= i < b.end for b in self.blocks)]

    def changes(self, architecture: Architecture, layer: int, tensor: str) -> bool:
        """Whether a tensor of a decoder layer gets other values."""
        merge = layer in self.transforms and architecture.merge_axis(tensor) is not None
        return merge or (layer, tensor) in self.weights

    def changed(self, architecture: Architecture, layer: int, tensor: str, values: Tensor) -> Tensor:
        """The values of a tensor of a decoder layer after the edit, in its dtype."""
        if (layer, tensor) in self.weights:
            values = self.weights[layer, tensor].to(values).reshape(values.shape)
        axis = architecture.merge_axis(tensor)
        if layer in self.transforms and axis is not None:
            values = merge_transform(values, self.transforms[layer], axis, architecture.norm_offset)
        return values


def merge_transform(
    weight: Tensor, transform: Tensor, axis: Axis = -2, norm_offset: float = 0.0
) -> Tensor:
    """The weights with which a projection's output x becomes x T.

    Args:
        weight: [(experts,) out, in] for axis -2 (Tᵀ W), [(experts,) in, out] or a bias for axis -1
            (W T), [d] for ``scale``: a norm's weight, where T must be diagonal.
        transform: [d, d] float64.
        norm_offset: what the norm adds to its weight (1 in Gemma).

    Returns:
        The shape and dtype of ``weight``, computed in float64 and rounded once.
    """
    transform, exact = transform.to(weight.device), weight.to(transform.dtype)
    if axis == "scale":
        result = (exact + norm_offset) * transform.diagonal() - norm_offset
    else:
        result = transform.mT @ exact if axis == -2 else exact @ transform
    return result.to(weight.dtype)


def apply(model: PreTrainedModel, architecture: Architecture, edit: Edit) -> None:
    """Prune a loaded model in place.

    Layer indices of the attention modules (``layer_idx``, the slots of the KV cache) and per-layer
    settings of the config follow.
    """
    layers = architecture.decoder_layers(model)
    kept = edit.kept(len(layers))
    config = model.config.to_dict()
    for layer, tensor, parameter in list_changed(model, architecture, edit):
        parameter.data = edit.changed(architecture, layer, tensor, parameter.data)
    for number in reversed(range(len(layers))):
        if number not in kept:
            del layers[number]
    for index, kept_layer in enumerate(layers):
        for module in kept_layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]
    for key, value in _settings(config, kept).items():
        setattr(model.config, key, value)


def _settings(config: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """What of a config is another without the layers that go."""
    return {k: v for k, v in pruned_config(config, kept).items() if v != config.get(k)}


def list_changed(
    model: PreTrainedModel, architecture: Architecture, edit: Edit
) -> Iterator[tuple[int, str, torch.nn.Parameter]]:
    """(layer, tensor, parameter) of everything that an edit changes in a loaded model."""
    layers = architecture.decoder_layers(model)
    numbers = {*edit.transforms, *(layer for layer, _ in edit.weights)}
    for layer in sorted(numbers):
        for tensor, parameter in layers[layer].named_parameters():
            if edit.changes(architecture, layer, tensor):
                yield layer, tensor, parameter


@contextmanager
def edit_temporarily(
    model: PreTrainedModel, architecture: Architecture, edit: Edit
) -> Iterator[list[int]]:
    """The model with the edit's weights but still all its layers, for as long as the context lasts.

    Yields:
        Numbers of the layers that stay.
    """
    whole = [
        (parameter, parameter.data, edit.changed(architecture, layer, tensor, parameter.data))
        for layer, tensor, parameter in list_changed(model, architecture, edit)
    ]
    try:
        for parameter, _, values in whole:
            parameter.data = values
        yield edit.kept(len(architecture.decoder_layers(model)))
    finally:
        for parameter, values, _ in whole:
            parameter.data = values


@contextmanager
def prune_temporarily(model: PreTrainedModel, architecture: Architecture, edit: Edit) -> Iterator[None]:
    """The model pruned for as long as the context lasts, without a KV cache: its slots stay numbered as
    in the intact model."""
    config = model.config.to_dict()
    with edit_temporarily(model, architecture, edit) as kept:
        settings = _settings(config, kept) | {"use_cache": False}
        own = {key: getattr(model.config, key) for key in settings}
        with architecture.only_layers(model, kept):
            try:
                for key, value in settings.items():
                    setattr(model.config, key, value)
                yield
            finally:
                for key, value in own.items():
                    setattr(model.config, key, value)
