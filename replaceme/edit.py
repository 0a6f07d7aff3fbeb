"""What pruning changes in a model, and how it is done to a loaded one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from replaceme.architectures import Architecture, Axis, is_numbered, pruned_config
from replaceme.hooks import other_values
from replaceme.io.layers import bring, let_go
from replaceme.selection import Block

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Edit:
    """What pruning does to a model; layers are numbered as in the intact model.

    Attributes:
        blocks: layers to remove, in ascending order, without overlap.
        transforms: layer → T [d, d] float64, merged into whatever ends the layer's MLP.
        weights: (layer, parameter) → new values in its shape, such as
            ``(12, "mlp.down_proj.weight")``; they are rounded to the model's dtype.
        outside: new values of tensors outside the layers, such as ``lm_head.weight``.
    """

    blocks: tuple[Block, ...] = ()
    transforms: dict[int, Tensor] = field(default_factory=dict)
    weights: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    outside: dict[str, Tensor] = field(default_factory=dict)

    @property
    def values(self) -> list[Tensor]:
        """All that it brings."""
        return [*self.transforms.values(), *self.weights.values(), *self.outside.values()]

    def kept(self, layers: int) -> list[int]:
        """Numbers of the layers that stay, of a model of ``layers`` layers."""
        return [i for i in range(layers) if not any(b.start <= i < b.end for b in self.blocks)]

    def changes(self, architecture: Architecture, layer: int, tensor: str) -> bool:
        """Whether a tensor of a decoder layer gets other values."""
        merges = layer in self.transforms and architecture.kind(layer).merges(tensor)
        return merges or self.new_values(architecture, layer, tensor) is not None

    def new_values(self, architecture: Architecture, layer: int, tensor: str) -> Tensor | None:
        """Those of a tensor of a decoder layer, named as in memory or as in files, if it gets any."""
        if (layer, tensor) in self.weights:
            return self.weights[layer, tensor]
        part = architecture.part(layer, tensor) if self.weights else None
        values = self.weights.get((layer, part.parameter)) if part else None
        return part.of(values) if part and values is not None else None

    def changed(self, architecture: Architecture, layer: int, tensor: str, values: Tensor) -> Tensor:
        """The values of a tensor of a decoder layer after the edit, in its dtype."""
        new = self.new_values(architecture, layer, tensor)
        if new is not None:
            values = new.to(values).reshape(values.shape)
        if layer in self.transforms:
            kind, transform = architecture.kind(layer), self.transforms[layer]
            if (axis := kind.merge_axis(tensor)) is not None:
                return merge_transform(values, transform, axis)
            if (offset := kind.scale_offset(tensor)) is not None:
                return merge_diagonal(values, transform, offset)
        return values


def merge_transform(weight: Tensor, transform: Tensor, axis: Axis = -2) -> Tensor:
    """The weights with which a projection's output x becomes x T.

    Args:
        weight: [(experts,) out, in] for axis -2 (Tᵀ W), [(experts,) in, out] or a bias for axis -1
            (W T).
        transform: [d, d] float64.

    Returns:
        The shape and dtype of ``weight``, computed in float64 and rounded once.
    """
    transform, exact = transform.to(weight.device), weight.to(transform.dtype)
    result = transform.mT @ exact if axis == -2 else exact @ transform
    return result.to(weight.dtype)


def merge_diagonal(weight: Tensor, transform: Tensor, offset: float = 0.0) -> Tensor:
    """The weight [d] with which a norm's output x becomes x T, for a T [d, d] float64 that is diagonal.

    Args:
        offset: what the norm adds to the weight (1 in Gemma).
    """
    transform = transform.to(weight.device)
    exact = weight.to(transform.dtype)
    return ((exact + offset) * transform.diagonal() - offset).to(weight.dtype)


def apply(model: PreTrainedModel, architecture: Architecture, edit: Edit) -> None:
    """Prune a loaded model in place.

    Layer indices of the attention modules (``layer_idx``, the slots of the KV cache) and per-layer
    settings of the config follow.
    """
    layers = architecture.decoder_layers(model)
    kept = edit.kept(len(layers))
    settings = _list_settings(model, kept)
    for layer, tensor, parameter in list_changed(model, architecture, edit):
        parameter.data = edit.changed(architecture, layer, tensor, parameter.data)
    for parameter, values in list_outside(model, edit):
        parameter.data = values
    for parameter, values in _shorten_along(model, architecture, kept, len(layers)):
        parameter.data = values
    for number in reversed(range(len(layers))):
        if number not in kept:
            del layers[number]
    for index, kept_layer in enumerate(layers):
        for module in kept_layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]
    for config, key, value in settings:
        setattr(config, key, value)


def _shorten_along(
    model: PreTrainedModel, architecture: Architecture, kept: list[int], count: int
) -> list[tuple[torch.nn.Parameter, Tensor]]:
    """The tensors outside the layers that have a part for each, with the parts that stay."""
    own = dict(model.named_parameters()) if architecture.along else {}
    return [
        (own[name], keep_parts(own[name].data, axis, kept, count))
        for name, axis in architecture.along.items()
        if name in own
    ]


def keep_parts(values: Tensor, axis: int, kept: list[int], count: int) -> Tensor:
    """Some of the ``count`` equal parts of a tensor along an axis, one behind the other."""
    if len(kept) == count:
        return values
    import torch

    numbers = torch.tensor(kept, device=values.device)
    parts: Tensor = values.unflatten(axis, (count, -1)).index_select(axis, numbers)
    return parts.flatten(axis, axis + 1)


def _list_settings(model: PreTrainedModel, kept: list[int]) -> list[tuple[PreTrainedConfig, str, Any]]:
    """What of a model's config, and of that of its language model, is another without the layers that
    go."""
    found = []
    for config in {id(part): part for part in (model.config, model.config.get_text_config())}.values():
        said = config.to_dict()
        pruned = pruned_config(said, kept)
        found += [(config, key, pruned[key]) for key in pruned if pruned[key] != said.get(key)]
    found = [entry for entry in found if is_numbered(entry[2]) or not isinstance(entry[2], dict)]
    return sorted(found, key=lambda entry: is_numbered(entry[2]))  # they need the number of layers


def list_changed(
    model: PreTrainedModel, architecture: Architecture, edit: Edit
) -> Iterator[tuple[int, str, torch.nn.Parameter]]:
    """(layer, tensor, parameter) of everything that an edit changes in a loaded model."""
    for layer in sorted({*edit.transforms, *(layer for layer, _ in edit.weights)}):
        for tensor, parameter in list_changed_in(model, architecture, edit, layer):
            yield layer, tensor, parameter


def list_changed_in(
    model: PreTrainedModel, architecture: Architecture, edit: Edit, layer: int
) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The same of one layer."""
    for tensor, parameter in architecture.decoder_layers(model)[layer].named_parameters():
        if edit.changes(architecture, layer, tensor):
            yield tensor, parameter


def list_outside(model: PreTrainedModel, edit: Edit) -> list[tuple[torch.nn.Parameter, Tensor]]:
    """Parameters of a loaded model outside its layers, with the values that an edit gives them."""
    found = [(model.get_parameter(name), values) for name, values in edit.outside.items()]
    return [(parameter, values.to(parameter)) for parameter, values in found]


def _setting(config: PreTrainedConfig, key: str) -> Any:
    """A setting of a config as it can be set again."""
    said = config.to_dict().get(key)
    return said if is_numbered(said) else getattr(config, key, None)


@contextmanager
def change_layer(
    model: PreTrainedModel, architecture: Architecture, edit: Edit, layer: int
) -> Iterator[None]:
    """One layer, in memory, with the edit's weights for as long as the context lasts."""
    bring(architecture.decoder_layers(model)[layer])
    changes = [
        (parameter, edit.changed(architecture, layer, tensor, parameter.data))
        for tensor, parameter in list_changed_in(model, architecture, edit, layer)
    ]
    with other_values(changes):
        yield


@contextmanager
def change_outside(model: PreTrainedModel, edit: Edit) -> Iterator[None]:
    """What is outside the layers with the edit's values for as long as the context lasts."""
    with other_values(list_outside(model, edit)):
        yield


@contextmanager
def edit_temporarily(
    model: PreTrainedModel, architecture: Architecture, edit: Edit
) -> Iterator[list[int]]:
    """The model with the edit's weights but still all its layers, for as long as the context lasts.

    Yields:
        Numbers of the layers that stay.
    """
    layers = architecture.decoder_layers(model)
    changes = []
    for layer, tensor, parameter in list_changed(model, architecture, edit):
        if layer in edit.transforms:
            bring(layers[layer])
        changes.append((parameter, edit.changed(architecture, layer, tensor, parameter.data)))
    let_go(layers)
    with other_values(changes + list_outside(model, edit)):
        yield edit.kept(len(layers))


@contextmanager
def prune_temporarily(model: PreTrainedModel, architecture: Architecture, edit: Edit) -> Iterator[None]:
    """The model pruned for as long as the context lasts, without a KV cache: its slots stay numbered as
    in the intact model."""
    with edit_temporarily(model, architecture, edit) as kept:
        text = model.config.get_text_config()
        settings = [*_list_settings(model, kept), (text, "use_cache", False)]
        own = [(config, key, _setting(config, key)) for config, key, _ in settings]
        count = len(architecture.decoder_layers(model))
        along = _shorten_along(model, architecture, kept, count)
        with architecture.only_layers(model, kept), other_values(along):
            try:
                for config, key, value in settings:
                    setattr(config, key, value)
                yield
            finally:
                for config, key, value in own:
                    setattr(config, key, value)
