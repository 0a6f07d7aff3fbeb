"""Streaming passes over the calibration tokens: distances of every block, moments of the chosen ones.

Nothing is written to disk and memory does not grow with the number of samples, except for the bounded
token sample that some solvers ask for. Only real tokens count, never padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from replaceme.calibration import Batch, Batches
from replaceme.decoder import Decoder, Read
from replaceme.gram import compute_gram
from replaceme.report import Report, no_report

if TYPE_CHECKING:
    from replaceme.selection import Block

CPU = torch.device("cpu")
DIAGNOSED_TOKENS = 4096
FEW = 4  # tokens per feature, below which rounding errors could pass for data


Rows = Literal["equal", "relative", "geometric"]


class Kind(NamedTuple):
    """Which second moments.

    Attributes:
        of_input: of H, the input of the MLP's output projection, instead of M, its output.
        rows: the weight w of a token: 1; ``relative``: 1/‖L_out‖², so that errors count relative to the
            state; ``geometric``: 1/(‖L_in‖ ‖L_out‖), the same except for tokens that the block makes
            much longer, which count more.
    """

    of_input: bool = False
    rows: Rows = "equal"


def row_scale(rows: Rows, before: Tensor, after: Tensor) -> Tensor:
    """√w [tokens, 1] of the states [tokens, d] before and after a block, see :class:`Kind`."""
    length: Tensor = after.norm(dim=-1, keepdim=True)
    if rows == "geometric":
        length = (length * before.norm(dim=-1, keepdim=True)).sqrt()
    return length.clamp_min(1e-20).reciprocal()


class Needs(NamedTuple):
    """What a solver reads: kinds of moments, and the size of the token sample."""

    moments: frozenset[Kind] = frozenset()
    sample_tokens: int = 0


@dataclass(frozen=True)
class TokenSample:
    """States of a uniform random sample of calibration tokens, in the model's dtype, on the CPU.

    Attributes:
        mlp: [tokens, d], M_{start-1}: what the MLP of the layer before the block adds.
        before: [tokens, d], L_{start-1}: the residual stream that enters the block.
        after: [tokens, d], L_{end-1}: the residual stream that leaves it.
        inputs: [at most DIAGNOSED_TOKENS, k], H_{start-1}: what enters that layer's last projection, or
            its experts; or ``None``.
    """

    mlp: Tensor
    before: Tensor
    after: Tensor
    inputs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.mlp)

    def to(self, device: torch.device) -> TokenSample:
        """The states on another device; ``inputs`` stay."""
        mlp, before, after = (part.to(device) for part in (self.mlp, self.before, self.after))
        return TokenSample(mlp, before, after, self.inputs)

    def first(self, count: int) -> TokenSample:
        """The first ``count`` tokens, themselves a uniform sample."""
        inputs = None if self.inputs is None else self.inputs[:count]
        return TokenSample(self.mlp[:count], self.before[:count], self.after[:count], inputs)


@dataclass(frozen=True)
class Moments:
    """Weighted sums over all calibration tokens, as far as the linear solvers need them.

    The features X are M [tokens, d], or H with a column of ones where the projection has a bias,
    [tokens, k]; both times the residual multiplier. The target of the correction is
    D = L_{end-1} − L_{start-1}: ``X C ≈ D``. There are none of H where the projection's output passes a
    norm, or experts are in its place.

    Attributes:
        gram: [k, k] float64, Σ w XᵀX.
        cross: [k, d] float64, Σ w XᵀD.
    """

    gram: Tensor
    cross: Tensor


@dataclass(frozen=True)
class BlockStatistics:
    """What one block's solvers are given.

    Attributes:
        tokens: number of tokens summed over.
        moments: the kinds that were asked for.
        sample: bounded random sample of the same tokens.
        device: where the layer before the block is, and what is not closed-form is computed.
    """

    tokens: int
    moments: dict[Kind, Moments]
    sample: TokenSample
    device: torch.device = CPU


def layer_distances(
    decoder: Decoder, batches: Batches, report: Report = no_report
) -> tuple[Tensor, Tensor]:
    """Angular distances between the outputs of all pairs of layers, in one pass.

    Entry (i, j) is the mean of ``arccos(cos(L_i, L_j)) / π`` (UIDL, arXiv 2403.17887, eq. 7), so that
    ``Block(s, e)`` has the distance (s−1, e−1).

    Returns:
        Two [layers, layers] float64 on the CPU, symmetric, values in [0, 1]: the mean over sequences at
        the last real token, and the mean over all real tokens.
    """
    count = len(decoder.layers)
    reads = {layer: decoder.output(layer) for layer in range(count)}
    at_last = torch.zeros(count, count, dtype=torch.float64)
    at_all = torch.zeros(count, count, dtype=torch.float64)
    steps = len(batches)
    for step, batch in enumerate(batches, 1):
        outputs = decoder.run(batch, reads, until=count)
        rows, ends = torch.arange(len(batch.lengths)), batch.lengths - 1
        at_last += _angles(torch.stack([outputs[i][rows, ends].cpu().double() for i in range(count)], 1))
        for row, length in enumerate(batch.lengths.tolist()):
            states = [outputs[i][row, :length].float() for i in range(count)]
            at_all += _angles(torch.stack([s.to(states[0].device) for s in states], dim=1)).cpu()
        report(step / steps)
    return at_last / len(batches.sequences), at_all / batches.tokens


def _angles(states: Tensor) -> Tensor:
    """Sum over tokens of the angles between the states [tokens, layers, d] of one token, float64."""
    states = nn.functional.normalize(states, dim=-1)
    cosines = (states @ states.mT).clamp(-1, 1)
    return (cosines.arccos() / math.pi).sum(0, dtype=torch.float64)


def collect(
    decoder: Decoder,
    batches: Batches,
    blocks: Iterable[Block],
    needs: Needs = Needs(),  # noqa: B008
    report: Report = no_report,
) -> dict[Block, BlockStatistics]:
    """Statistics of all ``blocks`` in one pass that ends at the deepest of them.

    Each batch's products are formed from the native activations and added to float64 totals: in
    float64 on a CPU, where it costs little, so that directions without data stay empty instead of
    holding rounding errors; in float32 on a GPU, unless the tokens are hardly more than the features.
    The token sample has at least ``DIAGNOSED_TOKENS`` tokens (fewer where there are fewer).
    """
    totals = {block: _Totals() for block in dict.fromkeys(blocks)}
    if not totals:
        return {}
    ends = {block.end - 1 for block in totals}
    starts = {block.start - 1 for block in totals}
    reads: dict[Any, Read] = {i: decoder.output(i) for i in starts | ends}
    reads |= {("mlp", i): decoder.branch(i) for i in starts if decoder.kind(i).adds}
    if any(kind.of_input for kind in needs.moments):
        reads |= {("input", i): decoder.input_of(i, decoder.entry(i)) for i in starts}
    sample_tokens = min(max(needs.sample_tokens, DIAGNOSED_TOKENS), batches.counted)
    steps = len(batches)
    for step, batch in enumerate(batches, 1):
        outputs = decoder.run(batch, reads, until=max(ends) + 1)
        states = {key: real_tokens(output, batch) for key, output in outputs.items()}
        grams: dict[Any, Tensor] = {}
        for block, total in totals.items():
            features = _Features(decoder, states, block, batches.counted, grams)
            for kind in needs.moments:
                if not kind.of_input or decoder.is_linear(block.start - 1):
                    total.add(kind, *features.products(kind))
            total.keep(features, batch.ranks, sample_tokens)
        report(step / steps)
    return {block: total.statistics(batches.counted) for block, total in totals.items()}


def real_tokens(states: Tensor, batch: Batch) -> Tensor:
    """The rows [tokens, d] of states [sequences, tokens, d] that count: all but padding, as a rule.

    Where all count, they are the states themselves.
    """
    mask = batch.counted.flatten()
    rows = states.reshape(len(mask), -1)
    return rows if bool(mask.all()) else rows[mask.to(states.device)]


def with_ones(decoder: Decoder, layer: int, path: str, states: Tensor) -> Tensor:
    """The input [tokens, k] of a projection, with ones for its bias where it has one."""
    has_bias = decoder.has_bias(layer, path)
    return nn.functional.pad(states, (0, 1), value=1.0) if has_bias else states


def features_of(decoder: Decoder, layer: int, path: str, states: Tensor) -> Tensor:
    """What a projection is linear in: its input, with ones for a bias, times the residual multiplier.

    Args:
        path: the projection's name within the layer.
        states: [tokens, inputs], what enters it.

    Returns:
        [tokens, inputs (+ 1)], in the states' dtype, or float32 where there is a multiplier.
    """
    return times(with_ones(decoder, layer, path, states), decoder.kind(layer).factor_of(path))


def times(states: Tensor, factor: float) -> Tensor:
    """States times a factor, float32 where it is not 1."""
    return states if factor == 1.0 else states.float() * factor


@dataclass
class _Features:
    """The states of one batch at one block; ``grams`` are shared by the blocks of one start.

    ``tokens`` is the number in all batches.
    """

    decoder: Decoder
    states: dict[Any, Tensor]
    block: Block
    tokens: int
    grams: dict[Any, Tensor]

    @property
    def mlp(self) -> Tensor:
        """M of the layer before the block, times its factor; zeros where there is none."""
        layer = self.block.start - 1
        if ("mlp", layer) not in self.states:
            return torch.zeros_like(self.before)
        return times(self.states["mlp", layer], self.decoder.kind(layer).factor)

    @property
    def inputs(self) -> Tensor | None:
        """H of the layer before the block, where it was asked for."""
        return self.states.get(("input", self.block.start - 1))

    @property
    def _input_features(self) -> Tensor:
        layer = self.block.start - 1
        assert self.inputs is not None
        return features_of(self.decoder, layer, self.decoder.entry(layer), self.inputs)

    @property
    def before(self) -> Tensor:
        return self.states[self.block.start - 1]

    @property
    def after(self) -> Tensor:
        return self.states[self.block.end - 1].to(self.before.device)

    def products(self, kind: Kind) -> tuple[Tensor, Tensor]:
        """XᵀX and XᵀD of the batch, float32 on a GPU with many tokens, else float64."""
        x = self._input_features if kind.of_input else self.mlp
        exact = x.device.type == "cpu" or self.tokens < FEW * x.shape[1]
        dtype = torch.float64 if exact else torch.float32
        x, after = x.to(dtype), self.after.to(dtype)
        before = self.before.to(dtype)
        change = after - before
        if kind.rows != "equal":
            scale = row_scale(kind.rows, before, after)
            x, change = x * scale, change * scale
        key = (kind, self.block.start if kind.rows == "equal" else self.block)
        if key not in self.grams:
            self.grams[key] = compute_gram(x)
        return self.grams[key], x.mT @ change


@dataclass
class _Totals:
    """Running totals of one block."""

    gram: dict[Kind, Tensor] = field(default_factory=dict)
    cross: dict[Kind, Tensor] = field(default_factory=dict)
    sample: dict[str, Tensor] = field(default_factory=dict)
    device: torch.device = CPU

    def add(self, kind: Kind, gram: Tensor, cross: Tensor) -> None:
        for totals, part in ((self.gram, gram), (self.cross, cross)):
            if kind in totals:
                totals[kind] += part
            else:
                totals[kind] = part.to(torch.float64, copy=True)  # blocks of one start share a Gram

    def keep(self, features: _Features, ranks: Tensor, count: int) -> None:
        """Put the tokens that belong to a sample of ``count`` in their places."""
        self.device = features.before.device
        self._keep("mlp", features.mlp, ranks, count)
        self._keep("before", features.before, ranks, count)
        self._keep("after", features.after, ranks, count)
        if features.inputs is not None:
            self._keep("inputs", features.inputs, ranks, min(count, DIAGNOSED_TOKENS))

    def _keep(self, name: str, states: Tensor, ranks: Tensor, count: int) -> None:
        """A token's rank is its row; memory is taken once, so that it does not fragment."""
        if name not in self.sample:
            self.sample[name] = torch.empty(count, states.shape[1], dtype=states.dtype)
        chosen = (ranks < count).nonzero().squeeze(1)
        self.sample[name][ranks[chosen]] = states[chosen.to(states.device)].cpu()

    def statistics(self, tokens: int) -> BlockStatistics:
        moments = {kind: Moments(self.gram[kind], self.cross[kind]) for kind in self.gram}
        return BlockStatistics(tokens, moments, TokenSample(**self.sample), self.device)
