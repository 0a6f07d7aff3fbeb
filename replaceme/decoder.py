"""Runs the decoder of a model and reads states inside it: in whole passes, or layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn

from replaceme.architectures import Architecture, architecture_of
from replaceme.calibration import Batch
from replaceme.errors import InputError
from replaceme.lengths import Lengths

if TYPE_CHECKING:
    from transformers import PreTrainedModel


P = ParamSpec("P")
T = TypeVar("T")
WithModel = Callable[Concatenate["PreTrainedModel", P], T]


def without_dropout(function: WithModel[P, T]) -> WithModel[P, T]:
    """The function with its model in evaluation mode; each module has its own mode again afterwards."""

    @wraps(function)
    def wrapped(model: PreTrainedModel, /, *args: P.args, **kwargs: P.kwargs) -> T:
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            return function(model, *args, **kwargs)
        finally:
            for module, training in modes.items():
                module.training = training

    return wrapped


class Inputs(Protocol):
    """Token ids as a model takes them."""

    def inputs(self, model: PreTrainedModel) -> dict[str, Any]:
        """Arguments of the model's call."""
        ...


class Read(NamedTuple):
    """What to keep of a module's call: its output, or its first input."""

    module: nn.Module
    of_input: bool = False


class Call(NamedTuple):
    """What a layer is called with besides the states: positions, masks and the like."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _StoppedError(Exception):
    """A forward has got as far as it was wanted."""


@dataclass(frozen=True)
class Decoder:
    """The decoder of a loaded model.

    ``after_norm`` takes the last layer's state after the final norm, as the reference implementation
    does, instead of the residual stream itself (``compat: reference``).
    """

    model: PreTrainedModel
    architecture: Architecture
    after_norm: bool = False

    @classmethod
    def of(cls, model: PreTrainedModel, after_norm: bool = False) -> Decoder:
        """The decoder of a model of any supported family.

        Raises:
            InputError: the family is not supported.
        """
        where = model.name_or_path or type(model).__name__
        names = {name for name, _ in model.named_parameters()}
        decoder = cls(model, architecture_of(model.config.to_dict(), where, names), after_norm)
        if decoder.architecture.notice:
            decoder.check_residual(where)
        return decoder

    @property
    def layers(self) -> nn.ModuleList:
        return self.architecture.decoder_layers(self.model)

    @cached_property
    def multiplier(self) -> float:
        """Factor of M in the residual stream."""
        return self.architecture.multiplier(self.model.config.to_dict())

    @cached_property
    def parallel(self) -> bool:
        """Whether attention and MLP of a layer read the same state."""
        return self.architecture.is_parallel(self.model.config.to_dict())

    @property
    def device(self) -> torch.device:
        where: torch.device = self.model.get_input_embeddings().weight.device
        return where

    def output(self, layer: int) -> Read:
        """The residual stream after a layer."""
        if self.after_norm and layer == len(self.layers) - 1:
            return Read(self.model.get_submodule(self.architecture.final_norm))
        return Read(self.layers[layer])

    def mlp(self, layer: int) -> Read:
        """M of a layer, without the residual multiplier."""
        return Read(self.layers[layer].get_submodule(self.architecture.mlp))

    def mlp_block(self, layer: int) -> nn.Module:
        """The child of a layer that ends the MLP or is all of it; it treats every token by itself."""
        return self.layers[layer].get_submodule(self.architecture.mlp.partition(".")[0])

    def mlp_input(self, layer: int) -> Read:
        """H of a layer: the input of the projection that ends the MLP."""
        return Read(self.layers[layer].get_submodule(self.architecture.mlp), of_input=True)

    def attention_input(self, layer: int) -> Read:
        """The input of the projection that ends the attention of a layer."""
        module = self.layers[layer].get_submodule(self.architecture.attention_output)
        return Read(module, of_input=True)

    def has_bias(self, layer: int, path: str) -> bool:
        return getattr(self.layers[layer].get_submodule(path), "bias", None) is not None

    def feature_count(self, layer: int, path: str) -> int:
        """Inputs of a projection, and one for its bias."""
        weight = self.layers[layer].get_parameter(f"{path}.weight")
        return weight.shape[0 if self.architecture.input_major else 1] + self.has_bias(layer, path)

    def parameters(self, layer: int, path: str) -> dict[str, nn.Parameter]:
        """Weight and, where there is one, bias of a module of a layer, by name within the layer."""
        module = self.layers[layer].get_submodule(path)
        return {f"{path}.{name}": parameter for name, parameter in module.named_parameters()}

    @torch.no_grad()
    def run(self, batch: Batch, reads: dict[Any, Read], until: int) -> dict[Any, Tensor]:
        """States [sequences, tokens, d] in one forward of layers ``0 … until-1``."""
        with capture(reads) as states, self._stop_at(until):
            self._forward(batch)
        return states

    @cached_property
    def lengths(self) -> Lengths:
        """Which lengths of sequences the model treats alike."""
        return Lengths.of(self.model.config)

    def _forward(self, batch: Inputs) -> None:
        self.lengths.forget(self.model)
        self.model.base_model(**batch.inputs(self.model), use_cache=False)

    def _stop_at(self, until: int) -> AbstractContextManager[None]:
        """The model without its layers from ``until`` on, for as long as the context lasts."""
        return self.architecture.only_layers(self.model, range(until))

    @torch.no_grad()
    def enter(self, batch: Inputs) -> tuple[Tensor, list[Call]]:
        """The states that enter the first layer, and what each layer is called with; runs no layer."""
        states: list[Tensor] = []
        calls: list[Call] = []
        wrap = self._wrap

        def record(*args: Any, **kwargs: Any) -> Any:
            if args:
                hidden, args = args[0], args[1:]
            else:
                hidden = kwargs.pop("hidden_states")
            states.append(hidden)
            calls.append(Call(args, kwargs))
            return wrap(hidden)

        with replace_forwards(self.layers, record):
            self._forward(batch)
        return states[0], calls

    @cached_property
    def _layers_return_tuples(self) -> bool:
        """Whether a layer's call returns its states inside a tuple."""
        seen: list[bool] = []
        handle = self.layers[0].register_forward_hook(
            lambda _module, _inputs, output: seen.append(isinstance(output, tuple))
        )
        with torch.no_grad(), self._stop_at(1):
            self.model.base_model(
                input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device), use_cache=False
            )
        handle.remove()
        return seen[0]

    @property
    def _wrap(self) -> Callable[[Tensor], Any]:
        """Puts states into what a layer returns."""
        return (lambda states: (states,)) if self._layers_return_tuples else (lambda states: states)

    @torch.no_grad()
    def step(self, layer: int, states: Tensor, call: Call) -> Tensor:
        """The states after one layer."""
        return first(self.layers[layer](states, *call.args, **call.kwargs))

    @torch.no_grad()
    def attention(self, layer: int, states: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        """Input and output of the projection that ends a layer's attention; the rest does not run."""
        module = self.layers[layer].get_submodule(self.architecture.attention_output)

        def stop(*_: Any) -> None:
            raise _StoppedError

        with capture({"in": Read(module, of_input=True), "out": Read(module)}) as seen:
            handle = module.register_forward_hook(stop)
            try:
                self.step(layer, states, call)
            except _StoppedError:
                pass
            finally:
                handle.remove()
        return seen["in"], seen["out"]

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """[sequences, tokens, vocabulary] for states [sequences, tokens, d] after the last layer."""
        output = self._wrap(states)
        unread = torch.zeros(states.shape[:2], dtype=torch.long, device=self.device)
        with self._stop_at(1), replace_forwards(self.layers, lambda *_, **__: output):
            logits: Tensor = self.model(input_ids=unread, use_cache=False).logits
        return logits

    def check_residual(self, where: str) -> None:
        """Refuse a model recognised by structure whose layers do not add M to the residual stream.

        Raises:
            InputError: the state after the first layer is not the state before its MLP plus M.
        """
        batch = Batch.of([[*range(min(8, self.model.config.vocab_size))]])
        states, calls = self.enter(batch)
        attention = self.layers[0].get_submodule(self.architecture.attention_output)
        reads = {"attention": Read(attention), "mlp": self.mlp(0)}
        with capture(reads) as seen:
            after = self.step(0, states, calls[0])
        expected = states + seen["attention"] + seen["mlp"]
        if not torch.allclose(expected.float(), after.float(), rtol=1e-2, atol=1e-3):
            raise InputError(
                f"{where}: the layers are named like Llama's but compute something else; supported are "
                f"models whose layers add attention and MLP to the residual stream."
            )


def first(output: Any) -> Tensor:
    """The states in a module's output, which may be a tuple that starts with them."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


@contextmanager
def capture(reads: dict[Any, Read]) -> Iterator[dict[Any, Tensor]]:
    """The states that modules see while the context lasts, by the keys of ``reads``."""
    states: dict[Any, Tensor] = {}

    def of_output(key: Any) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            states[key] = first(output).clone()  # Falcon adds the attention to it in place

        return hook

    def of_input(key: Any) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: Any) -> None:
            states[key] = inputs[0]

        return hook

    handles = [
        read.module.register_forward_pre_hook(of_input(key))
        if read.of_input
        else read.module.register_forward_hook(of_output(key))
        for key, read in reads.items()
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


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
