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
from replaceme.gram import add_gram
from replaceme.report import Report, no_report
from replaceme.room import Room
from replaceme.sums import Portion, Sample, Sum
from replaceme.traversal import walk

if TYPE_CHECKING:
    from replaceme.room import Kept
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

    def __init__(self, kept: dict[Kind, tuple[Kept, Kept]], device: torch.device) -> None:
        """Keep them.

        Args:
            device: where they are to be when they are asked for.
        """
        self._kept, self._device = kept, device

    def __getitem__(self, kind: Kind) -> Moments:
        gram, cross = (kept.read().to(self._device) for kept in self._kept[kind])
        return Moments(gram, cross)

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


class Totals:
    """What is summed up for some blocks, over some parts of the tokens.

    Attributes:
        tokens: number of all tokens.
        fronts: layer before blocks → what those share that start alike.
        blocks: what each has for itself.
    """

    def __init__(self, tokens: int, sample_tokens: int, blocks: Iterable[Block], room: Room) -> None:
        count = min(max(sample_tokens, DIAGNOSED_TOKENS), tokens)
        self.tokens = tokens
        self.blocks = {block: _Sums(room, count) for block in blocks}
        self.fronts = {block.start - 1: _Sums(room, count) for block in self.blocks}

    def extend(self, later: Totals) -> None:
        """Add what was summed up over the parts that follow."""
        for layer, sums in later.fronts.items():
            self.fronts[layer].extend(sums)
        for block, sums in later.blocks.items():
            self.blocks[block].extend(sums)

    def statistics(self) -> dict[Block, BlockStatistics]:
        """Those of each block; the sums are given away."""
        shared = {layer: _take_totals(sums.grams) for layer, sums in self.fronts.items()}
        found = {}
        for block, sums in self.blocks.items():
            front = self.fronts[block.start - 1]
            grams = shared[block.start - 1] | _take_totals(sums.grams)
            cross = _take_totals(sums.cross)
            moments = {kind: (grams[kind], cross[kind]) for kind in cross}
            found[block] = BlockStatistics(
                self.tokens,
                KeptMoments(moments, front.device),
                TokenSample(**front.sample.rows, **sums.sample.rows),
                front.device,
            )
        return found


class _Sums:
    """Gram matrices and products by their kinds, and a sample.

    Attributes:
        device: where the states behind the layer are.
    """

    def __init__(self, room: Room, count: int) -> None:
        self._room = room
        self.grams: dict[Kind, Sum] = {}
        self.cross: dict[Kind, Sum] = {}
        self.sample = Sample(count)
        self.device = CPU

    def extend(self, later: _Sums) -> None:
        """Add what was summed up over the parts that follow."""
        for kind, gram in later.grams.items():
            self.grams[kind].extend(gram)
        for kind, cross in later.cross.items():
            self.cross[kind].extend(cross)
        self.sample.extend(later.sample)

    def add_gram(self, kind: Kind, part: int, x: Tensor) -> None:
        """Add XᵀX of X [tokens, k]."""
        gram = self.grams.setdefault(kind, Sum(self._room))
        add_gram(gram.of_part(part, (x.shape[1], x.shape[1]), x.device), x)

    def add_product(self, kind: Kind, part: int, product: Tensor) -> None:
        """Add XᵀD [k, d]."""
        cross = self.cross.setdefault(kind, Sum(self._room))
        cross.of_part(part, product.shape, product.device).add_(product)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_room": Room()}


def collect(
    decoder: Decoder,
    batches: Batches,
    blocks: Iterable[Block],
    needs: Needs = Needs(),  # noqa: B008
    report: Report = no_report,
) -> dict[Block, BlockStatistics]:
    """Statistics of all ``blocks`` in one pass that ends at the deepest of them."""
    return sum_moments(decoder, Portion.whole(batches), blocks, needs, report).statistics()


def sum_moments(
    decoder: Decoder,
    portion: Portion,
    blocks: Iterable[Block],
    needs: Needs = Needs(),  # noqa: B008
    report: Report = no_report,
) -> Totals:
    """What the statistics of ``blocks`` are made of, over a portion of the tokens.

    Each batch's products are formed from the native activations and added to float64 totals: in
    float64 on a CPU, where it costs little, so that directions without data stay empty instead of
    holding rounding errors; in float32 on a GPU, unless the tokens are hardly more than the features.
    The token sample has at least ``DIAGNOSED_TOKENS`` tokens (fewer where there are fewer).
    """
    blocks = sorted(set(blocks))
    totals = Totals(portion.batches.counted, needs.sample_tokens, blocks, decoder.room)
    if blocks:
        visitor = _Moments(decoder, portion, totals, needs)
        walk(decoder, portion, visitor, until=max(block.end for block in blocks), report=report)
    return totals


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
    """Sums up what blocks need."""

    def __init__(self, decoder: Decoder, portion: Portion, totals: Totals, needs: Needs) -> None:
        self.decoder, self.portion, self.totals = decoder, portion, totals
        self.ends: dict[int, list[Block]] = defaultdict(list)
        for block in totals.blocks:
            self.ends[block.end - 1].append(block)
        self.fronts = {
            layer: _Front(
                decoder,
                layer,
                max(block.end for block in totals.blocks if block.start - 1 == layer),
                needs,
                totals.tokens,
            )
            for layer in totals.fronts
        }

    def reads(self, layer: int) -> dict[Any, Read]:
        reads = {"state": self.decoder.output(layer)} if layer in self.ends else {}
        return reads | (self.fronts[layer].reads() if layer in self.fronts else {})

    def see(self, layer: int, number: int, batch: Batch, seen: dict[Any, Tensor]) -> None:
        states = {key: real_tokens(output, batch) for key, output in seen.items()}
        part = self.portion.part_of(number)
        for block in self.ends.get(layer, ()):
            front = self.fronts[block.start - 1]
            front.add_end(self.totals.blocks[block], block, part, number, states["state"])
            self.totals.blocks[block].sample.keep("after", states["state"], batch.ranks)
        if layer in self.fronts:
            self.fronts[layer].add(self.totals.fronts[layer], part, number, batch.ranks, states)


class _Front:
    """The layer before blocks, where those that start alike begin.

    Attributes:
        end: of the last of these blocks; until it has run, states wait.
        waiting: number of a batch → its states [tokens, …].
    """

    def __init__(self, decoder: Decoder, layer: int, end: int, needs: Needs, tokens: int) -> None:
        self.decoder, self.layer, self.end, self.tokens = decoder, layer, end, tokens
        self.kinds = [k for k in needs.moments if not k.of_input or decoder.is_linear(layer)]
        self.has_inputs = any(kind.of_input for kind in needs.moments)
        self.waiting: dict[int, dict[str, Kept]] = {}

    def reads(self) -> dict[Any, Read]:
        reads = {"state": self.decoder.output(self.layer)}
        if self.decoder.kind(self.layer).adds:
            reads["mlp"] = self.decoder.branch(self.layer)
        if self.has_inputs:
            reads["input"] = self.decoder.input_of(self.layer, self.decoder.entry(self.layer))
        return reads

    def add(self, sums: _Sums, part: int, number: int, ranks: Tensor, states: dict[Any, Tensor]) -> None:
        """Add what is known before the blocks."""
        sums.device = states["state"].device
        for kind in self.kinds:
            if kind.rows == "equal":
                sums.add_gram(kind, part, self.features(kind, states))
        sums.sample.keep("mlp", self._mlp(states), ranks)
        sums.sample.keep("before", states["state"], ranks)
        if self.has_inputs:
            sums.sample.keep("inputs", states["input"], ranks, DIAGNOSED_TOKENS)
        self.waiting[number] = {key: self.decoder.room.put(states[key]) for key in self._wanted(states)}

    def add_end(self, sums: _Sums, block: Block, part: int, number: int, after: Tensor) -> None:
        """Add what is known behind a block."""
        states = {key: kept.read() for key, kept in self.waiting[number].items()}
        if block.end == self.end:
            del self.waiting[number]
        for kind in self.kinds:
            x = self.features(kind, states)
            start, end = states["state"].to(x.dtype), after.to(x.device).to(x.dtype)
            change = end - start
            if kind.rows != "equal":
                scale = row_scale(kind.rows, start, end)
                x, change = x * scale, change * scale
                sums.add_gram(kind, part, x)
            sums.add_product(kind, part, x.mT @ change)

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


def _take_totals(found: dict[Kind, Sum]) -> dict[Kind, Kept]:
    return {kind: sums.total() for kind, sums in found.items()}
