"""Runs the decoder of a model and reads states inside it: in whole passes, or layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn

from replaceme.architectures import Architecture, Around, LayerKind, architecture_of_model
from replaceme.calibration import Batch
from replaceme.errors import InputError
from replaceme.hooks import changed_output, first, replace_forwards
from replaceme.io import layers as layer_files
from replaceme.lengths import Lengths
from replaceme.room import Room

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from replaceme.selection import Block


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
    """What to keep of the calls of modules: the sum of their outputs, or the first input of one."""

    modules: tuple[nn.Module, ...]
    of_input: bool = False


class Call(NamedTuple):
    """What a layer is called with besides the states: positions, masks and the like."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


UNLIKE = 0.1  # of a change: more than any dtype's rounding
SAME = 1e-3  # of a factor, and at least twice the rounding of one number in the model's dtype


class _StoppedError(Exception):
    """A forward has got as far as it was wanted."""


@dataclass(frozen=True)
class Decoder:
    """The decoder of a loaded model.

    ``after_norm`` takes the last layer's state after the final norm, as the reference implementation
    does, instead of the residual stream itself (``compat: reference``). ``room`` is where states wait
    between two layers.
    """

    model: PreTrainedModel
    architecture: Architecture
    after_norm: bool = False
    room: Room = field(default_factory=Room)

    @classmethod
    def of(cls, model: PreTrainedModel, after_norm: bool = False, room: Room | None = None) -> Decoder:
        """The decoder of a model of any supported family.

        Raises:
            InputError: the family is not supported.
        """
        where = name_of(model)
        decoder = cls(model, architecture_of_model(model, where), after_norm, room or Room())
        factors = decoder.measure_factors(where)
        return replace(decoder, architecture=decoder.architecture.with_factors(factors))

    def check_removal(self, blocks: tuple[Block, ...]) -> None:
        """Refuse blocks without which the model cannot be loaded again, see
        :func:`replaceme.removal.check_removal`.

        Raises:
            InputError: naming the blocks.
        """
        from replaceme.removal import check_removal

        config, build = self.model.config, type(self.model)
        check_removal(config, build, self.architecture, blocks, name_of(self.model))

    @property
    def layers(self) -> nn.ModuleList:
        return self.architecture.decoder_layers(self.model)

    def layer(self, number: int) -> nn.Module:
        """A layer with its values in memory, until another layer is wanted."""
        found = self.layers[number]
        layer_files.bring(found)
        return found

    @property
    def is_resident(self) -> bool:
        """Whether all layers are in memory all the time."""
        return layer_files.is_resident(self.layers[0])

    @property
    def chunk(self) -> int | None:
        """How many batches pass a layer together; ``None``: all."""
        return self.room.chunk or (1 if self.is_resident else None)

    def kind(self, layer: int) -> LayerKind:
        """What a layer does."""
        return self.architecture.kind(layer)

    @property
    def device(self) -> torch.device:
        where: torch.device = self.model.get_input_embeddings().weight.device
        return where

    def output(self, layer: int) -> Read:
        """The residual stream after a layer."""
        if self.after_norm and layer == len(self.layers) - 1 and self.architecture.final_norm:
            return Read((self.model.get_submodule(self.architecture.final_norm),))
        return Read((self.layers[layer],))

    def branch(self, layer: int) -> Read:
        """M of a layer, without its factor.

        Raises:
            InputError: nothing is added last.
        """
        if not (adds := self.kind(layer).adds):
            raise InputError(
                f"layer {layer} of {self.architecture.title} has no branch that is added last."
            )
        return Read(tuple(self.layers[layer].get_submodule(name) for name in adds))

    def tokenwise_block(self, layer: int) -> nn.Module | None:
        """The child of a layer that is all of its last branch, if that treats every token by itself."""
        kind = self.kind(layer)
        children = {name.partition(".")[0] for name in kind.adds}
        if not kind.tokenwise or len(children) != 1:
            return None
        return self.layers[layer].get_submodule(children.pop())

    def input_of(self, layer: int, path: str) -> Read:
        """The input of a module of a layer."""
        return Read((self.layers[layer].get_submodule(path),), of_input=True)

    def entry(self, layer: int) -> str:
        """What a layer's last branch ends in: its projection, or the module that its experts are in.

        Raises:
            InputError: it ends in neither.
        """
        path = self.kind(layer).entry
        if path is None:
            raise InputError(
                f"layer {layer} of {self.architecture.title} ends neither in a single matrix nor in "
                f"experts."
            )
        return path

    def has_bias(self, layer: int, path: str) -> bool:
        return getattr(self.layers[layer].get_submodule(path), "bias", None) is not None

    def feature_count(self, layer: int, path: str) -> int:
        """Inputs of a projection, and one for its bias."""
        weight = self.layers[layer].get_parameter(f"{path}.weight")
        return weight.shape[0 if self.is_input_major(layer, path) else 1] + self.has_bias(layer, path)

    def is_input_major(self, layer: int, path: str) -> bool:
        """Whether a projection's weight is (in, out) instead of (out, in)."""
        return not isinstance(self.layers[layer].get_submodule(path), nn.Linear)

    def parameters(self, layer: int, path: str) -> dict[str, nn.Parameter]:
        """Weight and, where there is one, bias of a module of a layer, by name within the layer."""
        module = self.layer(layer).get_submodule(path)
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
    def hands_on_states_alone(self) -> bool:
        """Whether a layer is given the states that the one before returned, and nothing else of it."""
        returned: list[Any] = []
        alone = True
        wrap, beside = self._wrap, self._beside or ()

        def record(*args: Any, **kwargs: Any) -> Any:
            nonlocal alone
            hidden, *others = args or [kwargs.pop("hidden_states")]
            given = [*others, *kwargs.values()]
            alone &= not returned or hidden is returned[-1]
            alone &= not any(one is two for one in given for two in beside if two is not None)
            returned.append(hidden.clone())
            return wrap(returned[-1])

        with torch.no_grad(), replace_forwards(self.layers, record):
            self._forward(Batch.of([[0, 0]]))
        return alone

    @cached_property
    def _beside(self) -> tuple[Any, ...] | None:
        """What a layer returns beside its states; ``None`` where it returns them alone."""
        seen: list[Any] = []
        handle = self.layers[0].register_forward_hook(
            lambda _module, _inputs, output: seen.append(output)
        )
        with torch.no_grad(), self._stop_at(1):
            self.model.base_model(
                input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device), use_cache=False
            )
        handle.remove()
        return tuple(seen[0][1:]) if isinstance(seen[0], tuple | list) else None

    @property
    def _wrap(self) -> Callable[[Tensor], Any]:
        """Puts states into what a layer returns."""
        beside = self._beside
        return (lambda states: states) if beside is None else (lambda states: (states, *beside))

    @torch.no_grad()
    def step(
        self, layer: int, states: Tensor, call: Call, known: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """The states after one layer.

        Args:
            known: what projections return, of those that are in ``around`` of the layer's kind; what is
                around these does not run.
        """
        with ExitStack() as stack:
            for path, output in (known or {}).items():
                around = self.kind(layer).around[path]
                module = self.layers[layer].get_submodule(around.path)
                if around.path != path:
                    output = output.reshape(states.shape)
                again = partial(_again, around, output)
                stack.enter_context(replace_forwards([module], again))
            return self.pass_through(layer, states, call)

    def pass_through(self, layer: int, states: Tensor, call: Call) -> Tensor:
        """:meth:`step`, which gradients can follow."""
        return first(self.layers[layer](states, *call.args, **call.kwargs))

    def pass_norm(self, layer: int, states: Tensor) -> None:
        """Have the norm behind the last layer run, where its output is read as the layer's."""
        norm = self.architecture.final_norm
        if self.after_norm and norm and layer == len(self.layers) - 1:
            with torch.no_grad():
                self.model.get_submodule(norm)(states)

    def is_linear(self, layer: int) -> bool:
        """Whether what a layer adds last is the output of one matrix."""
        kind = self.kind(layer)
        return kind.projection is not None and kind.projection not in kind.norms

    def end_of(self, layer: int, path: str) -> nn.Module:
        """What returns what one of the two projections adds: itself, or the norm behind it."""
        norm = self.kind(layer).norms.get(path)
        return self.layers[layer].get_submodule(norm.path if norm else path)

    @torch.no_grad()
    def mix(self, layer: int, states: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        """Input of the projection that ends what mixes tokens, and what is added; the rest does not
        run."""
        mixer = self.kind(layer).mixer
        assert mixer is not None
        end = self.end_of(layer, mixer)

        def stop(*_: Any) -> None:
            raise _StoppedError

        with capture({"in": self.input_of(layer, mixer), "out": Read((end,))}) as seen:
            handle = end.register_forward_hook(stop)
            try:
                self.step(layer, states, call)
            except _StoppedError:
                pass
            finally:
                handle.remove()
        return seen["in"], seen["out"]

    @torch.no_grad()
    def project(self, layer: int, path: str, inputs: Tensor) -> Tensor:
        """What a projection of a layer returns for its input."""
        return first(self.layers[layer].get_submodule(path)(inputs))

    @torch.no_grad()
    def finish(self, layer: int, inputs: Tensor) -> Tensor:
        """What the last branch of a layer adds, [tokens, d] float32, from the input of its entry."""
        kind, path = self.kind(layer), self.entry(layer)
        module = self.layer(layer).get_submodule(path)
        inputs = inputs.to(next(module.parameters()).device)
        if kind.experts:
            return kind.factor * self.run_experts(layer, inputs).float()
        states = module(inputs)
        if path in kind.norms:
            states = self.end_of(layer, path)(states)
        return kind.factor * first(states).float()

    @torch.no_grad()
    def run_experts(self, layer: int, states: Tensor) -> Tensor:
        """M [tokens, d] of a layer, without its factor, for the states [tokens, d] that its experts are
        given."""
        self.layer(layer)
        modules = self.branch(layer).modules
        return sum_of([first(module(states[None])).reshape(states.shape) for module in modules])

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """[sequences, tokens, vocabulary] for states [sequences, tokens, d] after the last layer."""
        return self.predict(states)

    def predict(self, states: Tensor) -> Tensor:
        """:meth:`logits`, which gradients can follow."""
        output = self._wrap(states)
        unread = torch.zeros(states.shape[:2], dtype=torch.long, device=self.device)
        routers = getattr(self.model.config.get_text_config(), "output_router_logits", False)
        settings = {"output_router_logits": False} if routers else {}
        with self._stop_at(1), replace_forwards(self.layers, lambda *_, **__: output):
            logits: Tensor = self.model(input_ids=unread, use_cache=False, **settings).logits
        return logits

    @torch.no_grad()
    def measure_factors(self, where: str) -> dict[int, float]:
        """What each layer multiplies its last branch by.

        A small model of its class said so already; but some models multiply what a layer returns by a
        number that they have learnt (Gemma 4).

        Raises:
            InputError: the output of the first layer of a kind does not follow that of its last branch.
        """
        batch = Batch.of([[*range(min(8, self.model.config.get_text_config().vocab_size))]])
        states, calls = self.enter(batch)
        factors = {}
        for layer, call in enumerate(calls):
            kind = self.kind(layer)
            if not kind.adds:
                continue
            factor, is_all = self._measure_factor(layer, states, call)
            if is_all:
                factors[layer] = factor
            elif layer == kind.layers[0]:
                raise InputError(
                    f"{where}: layer {layer} does not add the output of {kind.adds[0]} to what it "
                    f"returns, as a small model of its class does."
                )
        return factors

    def _measure_factor(self, layer: int, states: Tensor, call: Call) -> tuple[float, bool]:
        """How far a layer's output moves with its last branch's, and whether it does nothing else."""
        kind, after = self.kind(layer), self.step(layer, states, call).float()
        chance = torch.Generator().manual_seed(0)
        noise = torch.randn(after.shape, generator=chance).to(after) * max(float(after.std()), 1e-3)

        def move(output: Tensor) -> Tensor:
            return output + noise.reshape(output.shape).to(output)

        with changed_output(self.layers[layer].get_submodule(kind.adds[0]), move):
            change = self.step(layer, states, call).float() - after
        factor = float((change * noise).sum() / noise.square().sum())
        same = max(SAME, 2 * torch.finfo(self.model.dtype).eps)
        if abs(factor - kind.factor) <= same * abs(kind.factor):
            factor = kind.factor
        expected = factor * noise
        return factor, bool((change - expected).norm() <= UNLIKE * expected.norm())


def name_of(model: PreTrainedModel) -> str:
    """What a loaded model is called in messages."""
    return model.name_or_path or type(model).__name__


def _again(around: Around, output: Tensor, *_: Any, **__: Any) -> Any:
    """What a module returns whose output is known, and stays when the layer changes it in place."""
    return around.returns(output.clone())


def sum_of(parts: list[Tensor]) -> Tensor:
    """The sum of some states, in the shape of the first."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part.reshape(total.shape)
    return total


@contextmanager
def capture(reads: dict[Any, Read]) -> Iterator[dict[Any, Tensor]]:
    """The states that modules see while the context lasts, by the keys of ``reads``."""
    states: dict[Any, Tensor] = {}

    def of_output(key: Any) -> Callable[..., None]:
        parts: dict[nn.Module, Tensor] = {}

        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            parts[module] = first(output).clone()  # Falcon adds the attention to it in place
            if len(parts) == len(reads[key].modules):
                states[key] = sum_of([parts.pop(member) for member in reads[key].modules])

        return hook

    def of_input(key: Any) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: Any) -> None:
            states[key] = inputs[0]

        return hook

    handles = []
    for key, read in reads.items():
        hook = of_input(key) if read.of_input else of_output(key)
        for module in read.modules:
            register = (
                module.register_forward_pre_hook if read.of_input else module.register_forward_hook
            )
            handles.append(register(hook))
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
