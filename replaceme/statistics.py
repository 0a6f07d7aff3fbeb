"""Moments of the chosen blocks, in one pass over the calibration tokens.

Nothing is written to disk and memory does not grow with the number of samples, except for the bounded
token sample that some solvers ask for. Only real tokens count, never padding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from replaceme.calibration import Batch, Batches
from replaceme.decoder import Decoder, Read
from replaceme.gram import add_gram, compute_gram
from replaceme.report import Report, no_report
from replaceme.traversal import walk

if TYPE_CHECKING:
    from replaceme.room import Kept, Room
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


class KeptMoments(Mapping[Kind, Moments]):
    """Moments that wait in memory or in files until they are asked for."""

    def __init__(self, kept: dict[Kind, tuple[Kept, Kept]]) -> None:
        self._kept = kept

    def __getitem__(self, kind: Kind) -> Moments:
        gram, cross = self._kept[kind]
        return Moments(gram.read(), cross.read())

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


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
    moments: Mapping[Kind, Moments]
    sample: TokenSample
    device: torch.device = CPU


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
    if not (blocks := sorted(set(blocks))):
        return {}
    moments = _Moments(decoder, blocks, needs, batches.counted)
    walk(decoder, batches, moments, until=max(block.end for block in blocks), report=report)
    return moments.statistics()


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


class _Moments:
    """Sums over all tokens for some blocks."""

    def __init__(self, decoder: Decoder, blocks: list[Block], needs: Needs, tokens: int) -> None:
        self.decoder, self.tokens = decoder, tokens
        self.fronts = {b.start - 1: _Front(decoder, b.start - 1, needs, tokens) for b in blocks}
        self.sums: dict[int, list[_Sums]] = defaultdict(list)
        for block in blocks:
            front = self.fronts[block.start - 1]
            front.end = max(front.end, block.end)
            self.sums[block.end - 1].append(_Sums(block, front))

    def reads(self, layer: int) -> dict[Any, Read]:
        reads = {"state": self.decoder.output(layer)} if layer in self.sums else {}
        return reads | (self.fronts[layer].reads() if layer in self.fronts else {})

    def see(self, layer: int, number: int, batch: Batch, seen: dict[Any, Tensor]) -> None:
        states = {key: real_tokens(output, batch) for key, output in seen.items()}
        for sums in self.sums.get(layer, ()):
            sums.add(number, batch.ranks, states["state"])
        if layer in self.fronts:
            self.fronts[layer].add(number, batch.ranks, states)

    def statistics(self) -> dict[Block, BlockStatistics]:
        every = [sums for found in self.sums.values() for sums in found]
        return {sums.block: sums.statistics(self.tokens) for sums in every}


class _Front:
    """What is known at the layer before blocks, which those that start alike share.

    Attributes:
        end: of the last of these blocks; until it has run, states wait.
        grams: Σ XᵀX of the kinds that weigh all rows alike.
        waiting: number of a batch → its states [tokens, …].
    """

    def __init__(self, decoder: Decoder, layer: int, needs: Needs, tokens: int) -> None:
        self.decoder, self.layer, self.tokens = decoder, layer, tokens
        self.kinds = [k for k in needs.moments if not k.of_input or decoder.is_linear(layer)]
        self.has_inputs = any(kind.of_input for kind in needs.moments)
        self.end = 0
        self.device = CPU
        self.grams: dict[Kind, Tensor] = {}
        self.sample = _Sample(min(max(needs.sample_tokens, DIAGNOSED_TOKENS), tokens))
        self.waiting: dict[int, dict[str, Kept]] = {}
        self._kept: dict[Kind, Kept] = {}

    def reads(self) -> dict[Any, Read]:
        reads = {"state": self.decoder.output(self.layer)}
        if self.decoder.kind(self.layer).adds:
            reads["mlp"] = self.decoder.branch(self.layer)
        if self.has_inputs:
            reads["input"] = self.decoder.input_of(self.layer, self.decoder.entry(self.layer))
        return reads

    def add(self, number: int, ranks: Tensor, states: dict[Any, Tensor]) -> None:
        self.device = states["state"].device
        for kind in self.kinds:
            if kind.rows == "equal":
                _add_gram(self.grams, kind, self.features(kind, states))
        self.sample.keep("mlp", self._mlp(states), ranks)
        self.sample.keep("before", states["state"], ranks)
        if self.has_inputs:
            self.sample.keep("inputs", states["input"], ranks, DIAGNOSED_TOKENS)
        self.waiting[number] = {key: self.decoder.room.put(states[key]) for key in self._wanted(states)}

    def keep_grams(self) -> dict[Kind, Kept]:
        """The Gram matrices, where states wait as well."""
        self._kept |= _keep_all(self.decoder.room, self.grams)
        return self._kept

    def _wanted(self, states: dict[Any, Tensor]) -> set[str]:
        named = {"input" if kind.of_input else "mlp" for kind in self.kinds}
        return {"state", *named} & states.keys() if self.kinds else set()

    def _mlp(self, states: dict[Any, Tensor]) -> Tensor:
        """M of the layer, times its factor; zeros where there is none."""
        if "mlp" not in states:
            return torch.zeros_like(states["state"])
        return times(states["mlp"], self.decoder.kind(self.layer).factor)

    def features(self, kind: Kind, states: dict[Any, Tensor]) -> Tensor:
        """X, in float32 on a GPU with many tokens, else in float64."""
        if kind.of_input:
            x = features_of(self.decoder, self.layer, self.decoder.entry(self.layer), states["input"])
        else:
            x = self._mlp(states)
        exact = x.device.type == "cpu" or self.tokens < FEW * x.shape[1]
        return x.to(torch.float64 if exact else torch.float32)


class _Sums:
    """Running totals of one block."""

    def __init__(self, block: Block, front: _Front) -> None:
        self.block, self.front = block, front
        self.grams: dict[Kind, Tensor] = {}
        self.cross: dict[Kind, Tensor] = {}
        self.sample = _Sample(front.sample.count)

    def add(self, number: int, ranks: Tensor, after: Tensor) -> None:
        front, after = self.front, after.to(self.front.device)
        states = {key: kept.read() for key, kept in front.waiting[number].items()}
        if self.block.end == front.end:
            del front.waiting[number]
        for kind in front.kinds:
            x = front.features(kind, states)
            start, end = states["state"].to(x.dtype), after.to(x.dtype)
            change = end - start
            if kind.rows != "equal":
                scale = row_scale(kind.rows, start, end)
                x, change = x * scale, change * scale
                _add_gram(self.grams, kind, x)
            product = x.mT @ change
            self.cross[kind] = self.cross[kind].add_(product) if kind in self.cross else product.double()
        self.sample.keep("after", after, ranks)

    def statistics(self, tokens: int) -> BlockStatistics:
        room = self.front.decoder.room
        grams = self.front.keep_grams() | _keep_all(room, self.grams)
        cross = _keep_all(room, self.cross)
        moments = KeptMoments({kind: (grams[kind], cross[kind]) for kind in cross})
        sample = TokenSample(**self.front.sample.rows, **self.sample.rows)
        return BlockStatistics(tokens, moments, sample, self.front.device)


class _Sample:
    """A token's rank is its row; memory is taken once, so that it does not fragment."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.rows: dict[str, Tensor] = {}

    def keep(self, name: str, states: Tensor, ranks: Tensor, most: int | None = None) -> None:
        """Put the tokens that belong to a sample of ``count``, or of ``most``, in their places."""
        count = min(self.count, most or self.count)
        if name not in self.rows:
            self.rows[name] = torch.empty(count, states.shape[1], dtype=states.dtype)
        chosen = (ranks < count).nonzero().squeeze(1)
        self.rows[name][ranks[chosen]] = states[chosen.to(states.device)].cpu()


def _add_gram(totals: dict[Kind, Tensor], kind: Kind, x: Tensor) -> None:
    totals[kind] = add_gram(totals[kind], x) if kind in totals else compute_gram(x)


def _keep_all(room: Room, found: dict[Kind, Tensor]) -> dict[Kind, Kept]:
    """Have matrices wait, one after the other, and leave nothing behind."""
    return {kind: room.put(found.pop(kind)) for kind in [*found]}
