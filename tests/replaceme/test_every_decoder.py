"""All classes that transformers generates text with: exact, or refused with the reason.

What was found of each is in docs/decoders.json, from which docs/families.md has its table. It is written
anew with

    python -m tests.zoo > docs/decoders.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import replaceme
from replaceme.architectures import Architecture
from replaceme.architectures.small import build_small
from replaceme.calibration import Batches
from replaceme.edit import Edit, apply
from replaceme.removal import takes_cache
from replaceme.selection import Block
from replaceme.solvers import make_solver
from replaceme.surgery import write_checkpoint
from tests import zoo

pytestmark = pytest.mark.slow

KNOWN = json.loads((Path(__file__).parents[2] / "docs" / "decoders.json").read_text("utf-8"))
HANDS_ON = {"zaya"}  # its layers hand on more than states, which layers left out by hand would change
CLOSE = {"rtol": 1e-3, "atol": 3e-4}  # of logits about 1, float32


@pytest.fixture(scope="module", params=zoo.classes())
def model_type(request: pytest.FixtureRequest) -> str:
    return request.param


def cut(layers: int) -> Block:
    return Block(layers // 2, layers // 2 + 1)


def edit_of(architecture: Architecture, layers: int, width: int) -> Edit:
    """The middle layer removed, with a transform in the one before, whole or diagonal, where it goes."""
    block = cut(layers)
    kind = architecture.kind(block.start - 1)
    chance = torch.Generator().manual_seed(0)
    transform = torch.eye(width, dtype=torch.float64)
    if kind.norm:
        transform += torch.diag(0.3 * torch.rand(width, generator=chance, dtype=torch.float64))
    elif kind.outputs:
        transform += 0.1 * torch.randn(width, width, generator=chance, dtype=torch.float64)
    return Edit((block,), {block.start - 1: transform} if kind.norm or kind.outputs else {})


@contextmanager
def by_hand(model: Any, architecture: Architecture, edit: Edit) -> Iterator[None]:
    """The whole model: the removed layer returns its input, T follows what is added before it."""
    layers, handles, seen = architecture.decoder_layers(model), [], {}

    def states_of(output: Any) -> Any:
        return output[0] if isinstance(output, tuple | list) else output

    def keep(name: str) -> Any:
        return lambda _m, _a, output: seen.update({name: states_of(output).clone()})

    for layer, transform in edit.transforms.items():
        kind = architecture.kind(layer)

        def merge(_m: Any, _a: Any, output: Any, kind: Any = kind, transform: Tensor = transform) -> Any:
            states = states_of(output)
            added = sum(seen[name].reshape(states.shape) for name in kind.adds)
            states = states + kind.factor * (added @ transform.to(added) - added)
            return (states, *output[1:]) if isinstance(output, tuple | list) else states

        for name in kind.adds:
            handles.append(layers[layer].get_submodule(name).register_forward_hook(keep(name)))
        handles.append(layers[layer].register_forward_hook(merge))

    def skip(_m: Any, args: Any, kwargs: Any, output: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple | list) else states

    for block in edit.blocks:
        for layer in layers[block.start : block.end]:
            handles.append(layer.register_forward_hook(skip, with_kwargs=True))
    yield
    for handle in handles:
        handle.remove()


@torch.no_grad()
def logits(model: Any, ids: Tensor, **inputs: Any) -> Tensor:
    return model(input_ids=ids, use_cache=False, **inputs).logits


def takes_padding(model: Any, ids: Tensor) -> bool:
    """Whether a short sequence beside a longer one, padded on the right, gets the logits that it gets
    alone."""
    short, wide = ids[:, :7], ids.repeat(2, 1)
    wide[1, 7:] = 1
    mask = torch.ones_like(wide)
    mask[1, 7:] = 0
    wanted, found = logits(model, short)[0], logits(model, wide, attention_mask=mask)[1, :7]
    return bool((found - wanted).abs().max() < 1e-3 * wanted.abs().max())


def test_is_exact_or_refused_as_the_table_says(model_type: str) -> None:
    assert zoo.describe(model_type) == KNOWN[model_type]


@pytest.mark.parametrize("name", [name for name, said in KNOWN.items() if said.get("removal") is True])
def test_pruned_in_memory_on_disk_and_by_hand_are_the_same(name: str, tmp_path: Path) -> None:
    config = zoo.config_of(name)
    model = build_small(config, zoo.build)
    architecture = zoo.measured(model)
    layers = len(architecture.decoder_layers(model))
    edit = edit_of(architecture, layers, zoo.width_of(config))
    ids = torch.arange(3, 15)[None]
    caches, pads = takes_cache(model), takes_padding(model, ids)
    with by_hand(model, architecture, edit):
        wanted = logits(model, ids)
    model.save_pretrained(tmp_path / "whole")
    write_checkpoint(tmp_path / "whole", tmp_path / "pruned", edit, None)
    again = type(model).from_pretrained(tmp_path / "pruned", dtype=torch.float32).eval()
    apply(model, architecture, edit)
    in_memory = logits(model, ids)
    if name in HANDS_ON:
        wanted = in_memory
    size = float(wanted.abs().max())
    torch.testing.assert_close(in_memory / size, wanted / size, **CLOSE)
    torch.testing.assert_close(logits(again, ids) / size, wanted / size, **CLOSE)
    assert takes_cache(again) or not caches
    assert takes_padding(again, ids) or not pads


@pytest.mark.parametrize("name", [name for name, said in KNOWN.items() if said.get("removal") is True])
@torch.no_grad()
def test_losses_of_fitted_variants_are_those_of_the_pruned_model(name: str) -> None:
    """From calibration to the held-back loss, with every solver that the table says is exact."""
    config = zoo.config_of(name)
    rows = [[*range(3 + i, 15 + i)] for i in range(12)]
    for key in ("uidl", "lstsq", "refit", "reconstruct"):
        if KNOWN[name].get(key, True) is not True:
            continue
        model = build_small(config, zoo.build)
        block = cut(len(zoo.measured(model).decoder_layers(model)))
        solver = make_solver(key)
        batches = Batches(rows, 3)
        found = replaceme.calibrate(
            model, batches, blocks=[(block,)], solvers=[solver], held_back_tokens=24
        )
        fitted = replaceme.fit(solver, found, (block,))
        assert fitted.loss is not None
        apply(model, found.decoder.architecture, fitted.edit)
        losses = []
        for row in found.held_back.batches.sequences:
            logs = logits(model, torch.tensor([row]))[0, :-1].log_softmax(-1)
            losses.append(-logs.gather(1, torch.tensor(row[1:])[:, None]))
        assert fitted.loss[1] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4), key
