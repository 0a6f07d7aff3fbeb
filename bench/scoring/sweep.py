"""All requests, all variants: trees in batches of the size that the machine runs fastest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain

import torch

from bench.scoring.answers import Answers
from bench.scoring.fork import Fork
from bench.scoring.heads import Answer
from bench.scoring.trees import Request, Tree, TreeBatch, count_tokens, grow, make_batches
from replaceme.lengths import Lengths

CPU_BUDGETS = (256, 512, 1024, 2048, 4096)
GPU_BUDGETS = (4096, 8192, 16384, 32768, 65536)
LARGEST = 2048  # tokens of a tree at most, if it has several requests
TIMED_LAYERS = 4
ALMOST = 1.03  # a budget that takes so many times the best one's time is as good, if smaller


@dataclass
class Work:
    """What sweeps have done.

    Attributes:
        requests: answered, of one variant or of all at once.
        tokens: nodes of their trees.
        token_layers: tokens times layers run.
        predictions: head positions times models, the intact one included.
        seconds: in the sweep.
    """

    requests: int = 0
    tokens: int = 0
    token_layers: int = 0
    predictions: int = 0
    seconds: float = 0.0


@dataclass
class Sweep:
    """Answers requests for the variants of one model.

    What a variant answers does not depend on which others are answered along with it, nor on what was
    known before: batches are made of all requests, and left out or run whole.
    """

    fork: Fork
    known: Answers
    work: Work = field(default_factory=Work)

    def run(
        self,
        variants: Sequence[str],
        requests: Iterable[Request],
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Have every variant's answer to every request in ``known``.

        Args:
            progress: told the share of the tokens that is done after each batch.
        """
        batches = self.arrange(requests)
        total = sum(map(count_asked, batches))
        lacking = self.known.list_lacking(variants, batches)
        done = total - sum(map(count_asked, chain(*lacking.values())))
        if done:
            progress(done / total)
        for names, own in lacking.items():
            for asked, answers in self.answer(names, own):
                self.known.keep(asked, answers)
                done += count_tokens(asked)
                progress(done / total)

    def arrange(self, requests: Iterable[Request]) -> list[list[Tree]]:
        """All requests in batches; how many tokens one takes is measured where nobody has decided."""
        start = time.perf_counter()
        trees = self.trees(requests)
        if trees and self.known.budget is None:
            self.known.budget = self.measure_budget(trees)
        batches = [*self.batches(trees, self.known.budget or 1)]
        self.work.seconds += time.perf_counter() - start
        return batches

    def answer(
        self, variants: Sequence[str], batches: Sequence[list[Tree]]
    ) -> Iterator[tuple[list[Request], dict[str, list[Answer]]]]:
        """The requests of batches and variant → the answers to them, as they come.

        What does not fit into the device's memory is answered in smaller batches.
        """
        fork, waiting = self.fork.only([*variants]), [*batches]
        while waiting:
            start = time.perf_counter()
            count = self._count_together(waiting, len(variants))
            chunk, waiting = waiting[:count], waiting[count:]
            made = [TreeBatch(trees) for trees in chunk]
            try:
                found = fork.answers_to(made)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                first, *others = chunk
                self.known.budget = max(1, len(first[0]) * len(first) // 2)
                left = [tree for group in [*others, *waiting] for tree in group]
                waiting = [*self.batches([*_smaller(first), *left], self.known.budget)]
                continue
            self.work.seconds += time.perf_counter() - start
            for batch, answers in zip(made, found, strict=True):
                self._count(batch, fork)
                yield batch.requests, answers

    def _count_together(self, waiting: list[list[Tree]], variants: int) -> int:
        """How many batches pass a layer together: what there is room for, where each time costs a read
        of the model."""
        decoder = self.fork.decoder
        if decoder.chunk or decoder.room.free is None:
            return decoder.chunk or len(waiting)
        width = decoder.model.get_input_embeddings().weight.shape[1]
        free, size = decoder.room.free(), decoder.model.dtype.itemsize
        taken = accumulate(
            len(trees) * len(trees[0]) * size * (width * (variants + 1) + len(trees[0]))
            for trees in waiting
        )
        return max(1, sum(bytes <= free for bytes in taken))

    def _count(self, batch: TreeBatch, fork: Fork) -> None:
        self.work.requests += len(batch.requests)
        self.work.tokens += batch.nodes
        self.work.token_layers += batch.nodes * fork.steps
        self.work.predictions += len(batch.heads[0]) * fork.ends

    def trees(self, requests: Iterable[Request]) -> list[Tree]:
        """Trees that suit the model: the cost of two tokens is that of their multiplications.

        The requests of a tree, and the trees of a batch, are of lengths that the model treats alike.
        """
        model, layer = self.fork.decoder.model, self.fork.decoder.layers[0]
        width = model.get_input_embeddings().weight.shape[1]
        weights = sum(parameter.numel() for parameter in layer.parameters())
        groups = self.lengths.groups(requests, lambda request: len(request.tokens))
        return [tree for group in groups for tree in grow(group, 2 * width / weights, LARGEST)]

    def batches(self, trees: Iterable[Tree], budget: int) -> Iterator[list[Tree]]:
        """Trees in batches, see :func:`bench.scoring.trees.make_batches`."""
        for alike in self.lengths.groups(trees, lambda tree: tree.longest):
            yield from make_batches(alike, budget)

    @property
    def lengths(self) -> Lengths:
        return self.fork.decoder.lengths

    def measure_budget(self, trees: list[Tree]) -> int:
        """The smallest budget with almost the best time for a token."""
        usual = sorted(trees, key=len)[len(trees) // 2]
        budgets = CPU_BUDGETS if self.fork.decoder.device.type == "cpu" else GPU_BUDGETS
        enough = sum(map(len, trees))
        seconds = {}
        for budget in [budgets[0], *(b for b in budgets[1:] if b <= enough)]:
            count = max(1, budget // len(usual))
            try:
                seconds[budget] = self.layer_seconds([usual] * count) / count
            except torch.OutOfMemoryError:
                break
        best = min(seconds.values(), default=0.0)
        return next((b for b, s in seconds.items() if s <= ALMOST * best), budgets[0])

    def layer_seconds(self, trees: list[Tree]) -> float:
        """Seconds of a layer, the mean of a few, so that their weights are not in the cache."""
        decoder = self.fork.decoder
        layers = range(min(TIMED_LAYERS if decoder.is_resident else 1, len(decoder.layers)))
        entered, calls = decoder.enter(TreeBatch(trees))
        times = []
        for _ in range(2):
            states, start = entered, time.perf_counter()
            for layer in layers:
                states = decoder.step(layer, states, calls[layer])
            float(states[0, 0, 0])
            times.append(time.perf_counter() - start)
        return min(times) / len(layers)


def count_asked(trees: list[Tree]) -> int:
    """Tokens of the requests, which are the same in whatever trees they are."""
    return sum(count_tokens(tree.tails) for tree in trees)


def _smaller(trees: list[Tree]) -> list[Tree]:
    """The same requests in smaller trees.

    Raises:
        torch.OutOfMemoryError: there is nothing smaller than a single request.
    """
    if len(trees) > 1:
        return trees
    requests = [*trees[0].tails]
    if len(requests) == 1:
        raise torch.OutOfMemoryError(f"a request of {len(trees[0])} tokens does not fit")
    half = len(requests) // 2
    return [tree for part in (requests[:half], requests[half:]) for tree in grow(part, 0.0, 2**31)]
