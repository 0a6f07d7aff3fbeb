"""What the weights and the config of a real model say beyond a small one of its class."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import replaceme
from replaceme.calibration import Batches
from replaceme.decoder import Decoder
from replaceme.edit import apply
from replaceme.selection import Block
from replaceme.solvers import make_solver
from tests import zoo

BLOCK = Block(2, 3)
ROWS = [[*range(3 + i, 15 + i)] for i in range(12)]
SCALARS = [0.5, 1.25, 0.0625, 2.0, 0.8, 0.3]


def learnt_scalars(**settings: Any) -> Any:
    """A small Gemma 4 whose layers multiply what they return by other numbers than 1."""
    model = zoo.build(zoo.config_of("gemma4_text")).eval()
    for layer, scalar in zip(model.model.layers, SCALARS, strict=False):
        layer.layer_scalar.fill_(scalar)
    return model.to(**settings) if settings else model


@pytest.mark.parametrize(
    "name, parameters",
    [("uidl", {}), ("lstsq", {"diagonal": True}), ("refit", {}), ("reconstruct", {})],
)
@torch.no_grad()
def test_a_model_that_scales_its_layers_is_fitted_as_it_is(
    name: str, parameters: dict[str, Any]
) -> None:
    model, solver = learnt_scalars(), make_solver(name, **parameters)
    batches = Batches(ROWS, 4)
    calibration = replaceme.calibrate(
        model, batches, blocks=[(BLOCK,)], solvers=[solver], held_back_tokens=40
    )
    fit = replaceme.fit(solver, calibration, (BLOCK,))
    assert fit.loss is not None
    apply(model, calibration.decoder.architecture, fit.edit)
    losses = []
    for row in calibration.held_back.batches.sequences:
        logs = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, :-1].log_softmax(-1)
        losses.append(-logs.gather(1, torch.tensor(row[1:])[:, None]))
    assert fit.loss[1] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_layer_multiplies_by_is_measured(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = learnt_scalars(dtype=dtype)
    decoder = Decoder.of(model)
    found = [decoder.kind(layer).factor for layer in range(len(decoder.layers))]
    wanted = [float(layer.layer_scalar) for layer in decoder.layers]
    assert found == pytest.approx(wanted, rel=1e-2 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_rounding_is_not_taken_for_a_factor(seed: int) -> None:
    torch.manual_seed(seed)
    decoder = Decoder.of(zoo.build(zoo.config_of("llama")).bfloat16().eval())
    assert {decoder.kind(layer).factor for layer in range(len(decoder.layers))} == {1.0}


def test_a_model_that_returns_its_routers_logits_is_calibrated() -> None:
    model = zoo.build(zoo.config_of("mixtral")).eval()
    model.config.output_router_logits = True
    solver = make_solver("uidl")
    calibration = replaceme.calibrate(model, Batches(ROWS, 4), blocks=[(BLOCK,)], solvers=[solver])
    assert replaceme.fit(solver, calibration, (BLOCK,)).loss
