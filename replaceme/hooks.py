"""Modules and parameters that are something else for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def first(output: Any) -> Tensor:
    """The states in a module's output, which may be a tuple that starts with them."""
    states: Tensor = output[0] if isinstance(output, tuple | list) else output
    return states


@contextmanager
def changed_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The module with other states in what it returns, for as long as the context lasts."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple | list):
            return type(output)((change(output[0]), *output[1:]))
        return change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def other_values(changes: Iterable[tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
    """Parameters with other values for as long as the context lasts."""
    changes = list(changes)
    own = [parameter.data for parameter, _ in changes]
    try:
        for parameter, values in changes:
            parameter.data = values
        yield
    finally:
        for (parameter, _), values in zip(changes, own, strict=True):
            parameter.data = values


@contextmanager
def replace_forwards(modules: Iterable[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """The modules with another ``forward`` for as long as the context lasts."""
    modules = list(modules)
    hidden = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.forward = forward
    try:
        yield
    finally:
        for module, before in zip(modules, hidden, strict=True):
            if before is None:
                del module.__dict__["forward"]
            else:
                module.forward = before
