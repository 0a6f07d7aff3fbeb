"""A model in half precision computed in float32, with the weights that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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

    What a layer holds is widened only while the layer runs, so that memory grows by a layer and by what
    is outside the layers.
    """
    layers = [*decoder.layers]
    inside = {id(tensor) for layer in layers for tensor in _tensors(layer)}
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(replace_forwards([layer], _widening(layer)))
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


def _widening(layer: nn.Module) -> Callable[..., Any]:
    """The forward of a layer, which widens what it holds; hooks would run where it is replaced, too."""
    forward = layer.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        bring(layer)
        undo = _widen(_tensors(layer))
        try:
            return forward(*args, **kwargs)
        finally:
            undo()

    return run


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _widen(tensors: Iterable[Tensor]) -> Callable[[], None]:
    """Put tensors of half precision into float32; returns what puts the same memory back."""
    own = [(tensor, tensor.data) for tensor in tensors if tensor.dtype in HALF]
    for tensor, values in own:
        tensor.data = values.float()

    def undo() -> None:
        for tensor, values in own:
            tensor.data = values

    return undo
