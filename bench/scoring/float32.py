"""A model in half precision computed in float32, with the weights that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from replaceme.decoder import Decoder
from replaceme.io.layers import bring


@contextmanager
def in_float32(decoder: Decoder) -> Iterator[None]:
    """The model computes in float32 for as long as the context lasts.

    What a layer holds is widened only while the layer runs, so that memory grows by a layer.
    """
    layers = [*decoder.layers]
    inside = {id(tensor) for layer in layers for tensor in _tensors(layer)}
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_widened_in_calls(layer))
        undo = _widen(tensor for tensor in _tensors(decoder.model) if id(tensor) not in inside)
        stack.callback(undo)
        yield


@contextmanager
def _widened_in_calls(layer: nn.Module) -> Iterator[None]:
    undo: list[Callable[[], None]] = []

    def before(*_: Any) -> None:
        bring(layer)
        undo.append(_widen(_tensors(layer)))

    def after(*_: Any) -> None:
        undo.pop()()

    handles = [
        layer.register_forward_pre_hook(before),
        layer.register_forward_hook(after, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _widen(tensors: Iterable[Tensor]) -> Callable[[], None]:
    """Put tensors of half precision into float32; returns what takes them back."""
    half = {torch.float16, torch.bfloat16}
    own = [(tensor, tensor.data) for tensor in tensors if tensor.dtype in half]
    for tensor, values in own:
        tensor.data = values.float()

    def undo() -> None:
        for tensor, values in own:
            tensor.data = values

    return undo
