"""Reconstruct against whole passes of both models, for every family that it works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import replaceme
from replaceme.calibration import Batch, Batches
from replaceme.decoder import Decoder, Read, capture
from replaceme.selection import Block
from replaceme.solvers import Reconstruct, Refit, Solver, reconstruct
from replaceme.solvers.fits import choose_fit
from tests.families import FAMILIES, LAYERS, measured, small

pytestmark = pytest.mark.slow

Weights = dict[tuple[int, str], Tensor]
BLOCKS = (Block(2, 3), Block(4, 5))
RIDGE, CUT_RIDGE = 0.5, 0.05
SOLVER = Reconstruct(ridge=RIDGE, cut_ridge=CUT_RIDGE)
MORE = {"hyperclovax": {"use_post_norm": True, "residual_multiplier": 0.4, "mlp_bias": True}}


@pytest.fixture(scope="module", params=[*FAMILIES, *MORE])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family: str, make_model: Any) -> Any:
    """Six layers; tests do not change it."""
    if family in MORE:
        return make_model(family, num_hidden_layers=LAYERS, **MORE[family])
    return small(FAMILIES[family].model_type, **FAMILIES[family].settings)


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    """All of one length, so that there is no padding."""
    return torch.randint(2, 500, (24, 20), generator=torch.Generator().manual_seed(1)).tolist()


def fitted(model: Any, rows: list[list[int]], solver: Solver, *blocks: Block) -> Weights:
    batches = Batches(rows, 8)
    found = replaceme.calibrate(model, batches, blocks=[blocks], solvers=[solver], held_back_tokens=0)
    return replaceme.fit(solver, found, blocks).edit.weights


def states_of(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple | list) else output
    return states


class Run:
    """Whole passes of a model, in which some layers return what they are given."""

    def __init__(self, model: Any, batch: Batch, without: tuple[Block, ...] = ()) -> None:
        self.model, self.batch = model, batch
        self.layers = measured(model).decoder_layers(model)
        self.gone = [self.layers[i] for block in without for i in range(*block)]

    @torch.no_grad()
    def read(self, layer: int, *paths: str, zeroed: tuple[str, ...] = ()) -> list[Tensor]:
        """The output of a layer, and the first inputs of modules of it, with some modules' outputs
        zero."""
        seen: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for module in self.gone:
                stack.callback(module.register_forward_hook(pass_by, with_kwargs=True).remove)
            for name in zeroed:
                module = self.layers[layer].get_submodule(name)
                stack.callback(module.register_forward_hook(zero).remove)
            for path in paths:
                keep = lambda _m, args, path=path: seen.update({path: args[0]})  # noqa: E731
                module = self.layers[layer].get_submodule(path)
                stack.callback(module.register_forward_pre_hook(keep).remove)
            keep_state = lambda _m, _a, output: seen.update(state=states_of(output))  # noqa: E731
            stack.callback(self.layers[layer].register_forward_hook(keep_state).remove)
            self.model(input_ids=self.batch.ids, use_cache=False)
        return [seen[key] for key in ("state", *paths)]


def pass_by(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    states = args[0] if args else kwargs["hidden_states"]
    return (states, *output[1:]) if isinstance(output, tuple | list) else states


def zero(_module: nn.Module, _args: Any, output: Any) -> Any:
    states = torch.zeros_like(states_of(output))
    return (states, *output[1:]) if isinstance(output, tuple | list) else states


def by_hand(model: Any, rows: list[list[int]]) -> Weights:
    """One fit after the other, each from whole passes of the model and of an edited copy.

    The stream behind the attention is what a layer returns to whose stream nothing else is added.
    """
    decoder, batch = Decoder.of(model), Batch.of(rows)
    copy = deepcopy(model)
    intact, pruned = Run(model, batch), Run(copy, batch, BLOCKS)
    weights: Weights = {}

    def put(found: Weights) -> None:
        weights.update(found)
        for (layer, name), values in found.items():
            pruned.layers[layer].get_parameter(name).data.copy_(values)

    put(fitted(model, rows, Refit(ridge=CUT_RIDGE), BLOCKS[0]))
    for layer, end in ((3, 5), (5, 6)):
        kind, entry = decoder.kind(layer), decoder.entry(layer)
        paths = [kind.mixer, entry]
        if not kind.parallel or kind.norms or kind.experts:
            (goal,) = intact.read(layer, zeroed=kind.adds)
            state, inputs = pruned.read(layer, kind.mixer, zeroed=kind.adds)
            fit = choose_fit(decoder, layer, [kind.mixer], RIDGE)
            fit.add(batch, {kind.mixer: inputs}, state, goal)
            put(fit.solve())
            paths = [entry]
        (goal,) = intact.read(end - 1)
        state, *inputs = pruned.read(layer, *paths)
        fit = choose_fit(decoder, layer, paths, RIDGE)
        fit.add(batch, dict(zip(paths, inputs, strict=True)), state, goal)
        put(fit.solve())
    return weights


def test_weights_are_those_from_whole_passes(model: Any, rows: list[list[int]]) -> None:
    found, wanted = fitted(model, rows, SOLVER, *BLOCKS), by_hand(model, rows)
    assert found.keys() == wanted.keys()
    layers = measured(model).decoder_layers(model)
    for (layer, name), values in wanted.items():
        change = (values - layers[layer].get_parameter(name)).norm()
        assert (found[layer, name] - values).norm() < 1e-3 * change, (layer, name)


@pytest.mark.parametrize("room", [0, 40_000])
def test_weights_do_not_depend_on_how_much_is_kept(
    model: Any, rows: list[list[int]], room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of no batch, or of some."""
    wanted = fitted(model, rows, SOLVER, *BLOCKS)
    monkeypatch.setattr(reconstruct, "KEPT_BYTES", room)
    found = fitted(model, rows, SOLVER, *BLOCKS)
    for (layer, name), values in wanted.items():
        torch.testing.assert_close(found[layer, name], values, msg=f"{layer} {name}")


@contextmanager
def counted(modules: dict[str, nn.Module]) -> Iterator[list[str]]:
    """Names of modules as they are called."""
    calls: list[str] = []
    with ExitStack() as stack:
        for name, module in modules.items():
            note = lambda _m, _a, name=name: calls.append(name)  # noqa: E731
            stack.callback(module.register_forward_pre_hook(note).remove)
        yield calls


def test_a_layer_goes_on_from_known_outputs_without_what_makes_them(model: Any, family: str) -> None:
    decoder = Decoder.of(model)
    states, calls = decoder.enter(Batch.of([[*range(3, 15)], [*range(20, 32)]]))
    layer = LAYERS - 1
    kind, module = decoder.kind(layer), decoder.layers[layer]
    paths = [kind.mixer] if kind.experts else [kind.mixer, decoder.entry(layer)]
    assert [*kind.around] == paths
    ends = {path: Read((module.get_submodule(path),)) for path in paths}
    with capture(ends) as own:
        decoder.step(layer, states, calls[layer])
    chance = torch.Generator().manual_seed(0)
    outputs = {path: torch.randn(own[path].shape, generator=chance) for path in paths}
    with ExitStack() as stack:
        for path, output in outputs.items():
            put = lambda _m, _a, _own, output=output: output.clone()  # noqa: E731
            stack.callback(module.get_submodule(path).register_forward_hook(put).remove)
        wanted = decoder.step(layer, states, calls[layer])
    leaves = {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear)}
    with counted(leaves) as run:
        found = decoder.step(layer, states, calls[layer], outputs)
    torch.testing.assert_close(found, wanted)
    branches = {kind.around[path].path for path in paths}
    assert not [name for name in run if any(name.startswith(f"{path}.") for path in branches)]
    if family != "opt" and not kind.experts:  # OPT's MLP is no module of its own
        assert run == []
