"""What the pruner's tests share: states computed without the pruner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from typing import Any

import pytest
import torch
from torch import Tensor

from replaceme.statistics import BlockStatistics, Kind, Moments, Rows, TokenSample


@dataclass(frozen=True)
class States:
    """States of sequences that were run alone, without padding.

    Attributes:
        layers: L_i of each layer, [tokens, d] float64, the last one before the final norm.
        mlps: M_i of each layer, [tokens, d] float64.
        inputs: H_i of each layer, [tokens, d_ff] float64, what enters the MLP's output projection.
        normed: [tokens, d] float64, the last layer's state after the final norm.
        lengths: tokens of each sequence.
    """

    layers: list[Tensor]
    mlps: list[Tensor]
    inputs: list[Tensor]
    normed: Tensor
    lengths: list[int]

    @property
    def last_tokens(self) -> list[int]:
        return (torch.tensor(self.lengths).cumsum(0) - 1).tolist()


@torch.no_grad()
def run_alone(model: Any, sequences: list[list[int]], projection: str = "down_proj") -> States:
    """For models with ``model.layers`` whose MLP is the module ``mlp`` and ends in ``projection``."""
    decoder = model.model
    norm = decoder.norm if hasattr(decoder, "norm") else decoder.final_layernorm
    seen: dict[Any, list[Tensor]] = {}

    def keep(key: Any, states: Tensor) -> None:
        seen.setdefault(key, []).append(states[0])

    handles = [norm.register_forward_pre_hook(lambda _m, args: keep("last", args[0]))]
    for i, layer in enumerate(decoder.layers):
        handles += [
            layer.mlp.register_forward_hook(lambda _m, _i, out, i=i: keep(("mlp", i), out)),
            layer.mlp.get_submodule(projection).register_forward_pre_hook(
                lambda _m, args, i=i: keep(("input", i), args[0])
            ),
        ]
    hidden = [
        decoder(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
        for ids in sequences
    ]
    for handle in handles:
        handle.remove()
    count = len(decoder.layers)
    states = [torch.cat([h[i][0] for h in hidden]).double() for i in range(1, count + 1)]
    mlps, inputs = (
        [torch.cat(seen[name, i]).double() for i in range(count)] for name in ("mlp", "input")
    )
    last = torch.cat(seen["last"]).double()
    return States([*states[:-1], last], mlps, inputs, states[-1], list(map(len, sequences)))


@dataclass(frozen=True)
class Tokens:
    """Made-up M, L_in and L_out of some tokens, [tokens, d] float64."""

    mlp: Tensor
    before: Tensor
    after: Tensor

    @property
    def rest(self) -> Tensor:
        """Y."""
        return self.before - self.mlp

    def rounded(self, dtype: torch.dtype) -> Tokens:
        """The states as a model of ``dtype`` has them."""
        return Tokens(*(t.to(dtype).double() for t in (self.mlp, self.before, self.after)))

    def statistics(self, dtype: torch.dtype = torch.float64) -> BlockStatistics:
        """What a block's transform solvers are given, summed in float64."""
        change = self.after - self.before
        weights: dict[Rows, Tensor] = {
            "equal": torch.ones(len(self.mlp), 1),
            "relative": 1 / self.lengths**2,
        }
        moments = {
            Kind(rows=rows): Moments(self.mlp.mT @ (w * self.mlp), self.mlp.mT @ (w * change))
            for rows, w in weights.items()
        }
        parts = (t.to(dtype) for t in (self.mlp, self.before, self.after))
        return BlockStatistics(len(self.mlp), moments, TokenSample(*parts))

    @property
    def lengths(self) -> Tensor:
        """Norms of L_out, [tokens, 1]."""
        return self.after.norm(dim=1, keepdim=True)


def make_up_tokens(tokens: int = 400, rank: int = 16, width: int = 16) -> Tokens:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mlp = normal(tokens, rank) @ normal(rank, width)
    before = mlp + normal(tokens, width)
    after = before + 0.3 * mlp @ normal(width, width) + 0.5 * normal(tokens, width)
    return Tokens(mlp, before, after)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The models are so small that threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def states_alone() -> Callable[..., States]:
    """States of sequences run one by one through a whole model."""
    return run_alone


@pytest.fixture(scope="session")
def make_tokens() -> Callable[..., Tokens]:
    """Makes up ``tokens`` tokens, whose M spans ``rank`` of ``width`` dimensions."""
    return make_up_tokens


@pytest.fixture(scope="session")
def made_up() -> Tokens:
    """400 tokens of 16 dimensions."""
    return make_up_tokens()


@pytest.fixture(scope="session")
def made(make_model: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a random model of 4 layers and 32 dimensions; experts, where there are any, are 4."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 16, "num_hidden_layers": 4}
    experts = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
    return lambda model_type, **changes: make_model(model_type, **(sizes | experts | changes))


@pytest.fixture(scope="session")
def llama(make_model: Callable[..., Any]) -> Any:
    """A random Llama of 8 layers; tests do not change it."""
    return make_model()


@pytest.fixture(scope="session")
def sequences(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of 40 texts, 7 to 48 tokens long."""
    return [tokenizer(text)["input_ids"][: 7 + i % 42] for i, text in enumerate(texts[:40])]


@pytest.fixture
def without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """peft seems not to be installed."""
    find = util.find_spec
    monkeypatch.setattr(
        util, "find_spec", lambda name, *more: None if name == "peft" else find(name, *more)
    )
