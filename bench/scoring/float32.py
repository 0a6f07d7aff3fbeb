"""A model in half precision computed in float32, with the weights that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from replaceme.decoder import Decoder
from replaceme.hooks import replace_forwards
from replaceme.io.layers import bring

HALF = {torch.float16, torch.bfloat16}


@contextmanager
def in_float32(decoder: Decoder) -> Iterator[None]:
    """The model computes in float32 for as long as the context lasts.

    What a layer holds is widened when the layer runs, and kept so until another one does, so that memory
    grows by a layer and by what is outside the layers.
    """
    layers = [*decoder.layers]
    inside = {id(tensor) for layer in layers for tensor in _tensors(layer)}
    wide = _WideLayer()
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(replace_forwards([layer], wide.forward_of(layer)))
        outside = [tensor for tensor in _tensors(decoder.model) if id(tensor) not in inside]
        stack.enter_context(_widened([tensor for tensor in outside if tensor.dtype in HALF]))
        yield


@contextmanager
def _widened(tensors: list[Tensor]) -> Iterator[None]:
    """Tensors in float32, without keeping what they were: going back is exact."""
    dtypes = [tensor.dtype for tensor in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in zip(tensors, dtypes, strict=True):
            tensor.data = tensor.data.to(dtype)


class _WideLayer:
    """What the layer that ran last holds, in float32: batches that pass a layer together share it."""

    def __init__(self) -> None:
        self._layer: nn.Module | None = None
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def forward_of(self, layer: nn.Module) -> Callable[..., Any]:
        """The forward of a layer on what it holds, widened; a hook would run where this is replaced."""
        forward = layer.forward

        def run(*args: Any, **kwargs: Any) -> Any:
            if self._layer is not layer:
                self._layer = layer
                self._known.clear()
            bring(layer)
            own = [(tensor, tensor.data) for tensor in _tensors(layer) if tensor.dtype in HALF]
            try:
                for tensor, values in own:
                    tensor.data = self._widen(tensor, values)
                return forward(*args, **kwargs)
            finally:
                for tensor, values in own:
                    tensor.data = values

        return run

    def _widen(self, tensor: Tensor, values: Tensor) -> Tensor:
        """The values in float32; of those that a tensor has for a while, the first are kept."""
        known = self._known.get(id(tensor))
        if known and known[0].data_ptr() == values.data_ptr():
            return known[1]
        wide = values.float()
        self._known.setdefault(id(tensor), (values, wide))
        return wide


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())
