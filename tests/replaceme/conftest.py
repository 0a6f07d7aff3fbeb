"""What the pruner's tests share: states computed without the pruner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from replaceme.statistics import Moments, TokenSample


@dataclass(frozen=True)
class States:
    """States of sequences that were run alone, without padding.

    Attributes:
        layers: L_i of each layer, [tokens, d] float64, the last one before the final norm.
        mlps: M_i of each layer, [tokens, d] float64.
        normed: [tokens, d] float64, the last layer's state after the final norm.
        lengths: tokens of each sequence.
    """

    layers: list[Tensor]
    mlps: list[Tensor]
    normed: Tensor
    lengths: list[int]

    @property
    def last_tokens(self) -> list[int]:
        return (torch.tensor(self.lengths).cumsum(0) - 1).tolist()


@torch.no_grad()
def run_alone(model: Any, sequences: list[list[int]]) -> States:
    decoder = model.model
    seen: dict[Any, list[Tensor]] = {}
    handles = [
        layer.mlp.register_forward_hook(
            lambda _m, _i, out, key=i: seen.setdefault(key, []).append(out[0])
        )
        for i, layer in enumerate(decoder.layers)
    ]
    handles.append(
        decoder.norm.register_forward_pre_hook(
            lambda _m, args: seen.setdefault("last", []).append(args[0][0])
        )
    )
    hidden = [
        decoder(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
        for ids in sequences
    ]
    for handle in handles:
        handle.remove()
    count = len(decoder.layers)
    states = [torch.cat([h[i][0] for h in hidden]).double() for i in range(1, count + 1)]
    mlps = [torch.cat(seen[i]).double() for i in range(count)]
    return States(
        [*states[:-1], torch.cat(seen["last"]).double()], mlps, states[-1], list(map(len, sequences))
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The models are so small that threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def states_alone() -> Callable[[Any, list[list[int]]], States]:
    """States of sequences run one by one through a whole model."""
    return run_alone


@pytest.fixture(scope="session")
def make_moments() -> Callable[..., Moments]:
    """Moments, in float64, of given states: ``make_moments(mlp, before, after)``."""

    def make(mlp: Tensor, before: Tensor, after: Tensor) -> Moments:
        m, change = mlp.double(), after.double() - before.double()
        return Moments(
            tokens=len(m),
            gram=m.mT @ m,
            cross=m.mT @ change,
            change=float(change.square().sum()),
            energy=float(after.double().square().sum()),
            sample=TokenSample(mlp, before, after),
        )

    return make


@pytest.fixture(scope="session")
def llama(make_model: Callable[..., Any]) -> Any:
    """A random Llama of 8 layers; tests do not change it."""
    return make_model()


@pytest.fixture(scope="session")
def sequences(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of 40 texts, 7 to 48 tokens long."""
    return [tokenizer(text)["input_ids"][: 7 + i % 42] for i, text in enumerate(texts[:40])]
