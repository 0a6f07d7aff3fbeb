"""Streaming passes over the calibration tokens: distances of every block, moments of the chosen ones.

Nothing is written to disk and memory does not grow with the number of samples, except for the bounded
token sample that some solvers ask for. Only real tokens count, never padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from replaceme.architectures import Architecture
from replaceme.calibration import Batch, Batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from replaceme.selection import Block

Report = Callable[[], None]


def no_report() -> None:
    """The default progress callback."""


@dataclass(frozen=True)
class TokenSample:
    """States of a uniform random sample of calibration tokens, in the model's dtype, on the CPU.

    Attributes:
        mlp: [tokens, d], M_{start-1}: what the MLP of the layer before the block adds.
        before: [tokens, d], L_{start-1}: the residual stream that enters the block.
        after: [tokens, d], L_{end-1}: the residual stream that leaves it.
    """

    mlp: Tensor
    before: Tensor
    after: Tensor

    def __len__(self) -> int:
        return len(self.mlp)

    def first(self, count: int) -> TokenSample:
        """The first ``count`` tokens, themselves a uniform sample."""
        return TokenSample(self.mlp[:count], self.before[:count], self.after[:count])


@dataclass(frozen=True)
class Moments:
    """Sums over all calibration tokens for one block, as far as the linear solvers need them.

    Attributes:
        tokens: number of tokens summed over.
        gram: [d, d] float64, MᵀM.
        cross: [d, d] float64, Mᵀ(L_{end-1} − L_{start-1}): the right-hand side of the correction T − I.
        change: Σ‖L_{end-1} − L_{start-1}‖², the squared error of plain removal.
        energy: Σ‖L_{end-1}‖².
        sample: bounded random sample of the same tokens.
    """

    tokens: int
    gram: Tensor
    cross: Tensor
    change: float
    energy: float
    sample: TokenSample


@dataclass(frozen=True)
class Probe:
    """Runs the decoder of a model and reads states inside it.

    ``after_norm`` takes the last layer's state after the final norm, as the reference implementation
    does, instead of the residual stream itself (``compat: reference``).
    """

    model: PreTrainedModel
    architecture: Architecture
    after_norm: bool = False

    @property
    def layers(self) -> nn.ModuleList:
        return self.architecture.decoder_layers(self.model)

    def output(self, layer: int) -> nn.Module:
        """The module whose output is the residual stream after decoder layer ``layer``."""
        if self.after_norm and layer == len(self.layers) - 1:
            return self.model.get_submodule(self.architecture.final_norm)
        return self.layers[layer]

    def mlp(self, layer: int) -> nn.Module:
        """The module whose output is M of decoder layer ``layer``."""
        return self.architecture.mlp_output_of(self.layers[layer])

    @torch.no_grad()
    def run(self, batch: Batch, modules: dict[Any, nn.Module], until: int) -> dict[Any, Tensor]:
        """Outputs [sequences, tokens, d] of ``modules`` in one forward of layers ``0 … until-1``.

        Right padding and causal attention make an attention mask unnecessary for the real tokens.
        """
        with _captured(modules) as outputs, _truncated(self.model, self.architecture, until):
            device = self.model.get_input_embeddings().weight.device
            self.model.base_model(input_ids=batch.ids.to(device), use_cache=False)
        return outputs


@contextmanager
def _captured(modules: dict[Any, nn.Module]) -> Iterator[dict[Any, Tensor]]:
    outputs: dict[Any, Tensor] = {}

    def keep(key: Any) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[key] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(keep(key)) for key, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _truncated(model: PreTrainedModel, architecture: Architecture, until: int) -> Iterator[None]:
    """The model without its layers from ``until`` on, for as long as the context lasts."""
    parent_name, _, name = architecture.layers.rpartition(".")
    parent = model.get_submodule(parent_name)
    layers = getattr(parent, name)
    setattr(parent, name, layers[:until])
    try:
        yield
    finally:
        setattr(parent, name, layers)


def layer_distances(probe: Probe, batches: Batches, report: Report = no_report) -> Tensor:
    """Angular distances between the outputs of all pairs of layers, in one pass.

    Entry (i, j) is the mean over sequences of ``arccos(cos(L_i, L_j)) / π`` at the last real token
    (UIDL, arXiv 2403.17887, eq. 7), so that ``Block(s, e)`` has the distance (s−1, e−1).

    Returns:
        [layers, layers] float64 on the CPU, symmetric, values in [0, 1].
    """
    count = len(probe.layers)
    modules = {layer: probe.output(layer) for layer in range(count)}
    total = torch.zeros(count, count, dtype=torch.float64)
    for batch in batches:
        outputs = probe.run(batch, modules, until=count)
        rows = torch.arange(len(batch.lengths))
        states = torch.stack(
            [outputs[i][rows, batch.lengths - 1].cpu().double() for i in range(count)], dim=1
        )
        states = nn.functional.normalize(states, dim=-1)
        cosines = (states @ states.mT).clamp(-1, 1)
        total += (cosines.arccos() / math.pi).sum(0)
        report()
    return total / len(batches.sequences)


def collect_moments(
    probe: Probe,
    batches: Batches,
    blocks: Iterable[Block],
    sample_tokens: int,
    report: Report = no_report,
) -> dict[Block, Moments]:
    """Moments of all ``blocks`` in one pass that ends at the deepest of them.

    Each chunk's products are formed in float32 from the native activations and added to float64
    totals. Blocks that start at the same layer share M and MᵀM.

    Args:
        sample_tokens: size of the token sample (fewer where there are fewer tokens).
    """
    sums = {block: _Sums() for block in dict.fromkeys(blocks)}
    ends = {block.end - 1 for block in sums}
    starts = {block.start - 1 for block in sums}
    modules: dict[Any, nn.Module] = {i: probe.output(i) for i in starts | ends}
    modules |= {("mlp", i): probe.mlp(i) for i in starts}
    grams: dict[int, Tensor | float] = dict.fromkeys(starts, 0.0)
    for batch in batches:
        outputs = probe.run(batch, modules, until=max(ends) + 1)
        tokens = {key: value[batch.mask.to(value.device)] for key, value in outputs.items()}
        chosen = (batch.ranks < sample_tokens).nonzero().squeeze(1)
        for start in starts:
            mlp = tokens["mlp", start].float()
            grams[start] = grams[start] + (mlp.mT @ mlp).double()
        for block, total in sums.items():
            total.add(tokens, block, batch.ranks[chosen], chosen)
        report()
    return {
        block: total.moments(batches.tokens, grams[block.start - 1])  # type: ignore[arg-type]
        for block, total in sums.items()
    }


class _Sums:
    """Running totals of one block."""

    def __init__(self) -> None:
        self.cross: Tensor | float = 0.0
        self.change = 0.0
        self.energy = 0.0
        self.sample: list[tuple[Tensor, ...]] = []

    def add(self, tokens: dict[Any, Tensor], block: Block, ranks: Tensor, chosen: Tensor) -> None:
        mlp = tokens["mlp", block.start - 1]
        before, after = tokens[block.start - 1], tokens[block.end - 1].to(mlp.device)
        change = after.float() - before.float()
        self.cross = self.cross + (mlp.float().mT @ change).double()
        self.change += float(change.double().square().sum())
        self.energy += float(after.double().square().sum())
        rows = chosen.to(mlp.device)
        self.sample.append((ranks, *(states[rows].cpu() for states in (mlp, before, after))))

    def moments(self, tokens: int, gram: Tensor) -> Moments:
        ranks, *states = (torch.cat(parts) for parts in zip(*self.sample, strict=True))
        order = ranks.argsort()
        sample = TokenSample(*(part[order] for part in states))
        return Moments(tokens, gram, self.cross, self.change, self.energy, sample)  # type: ignore[arg-type]
