"""Token requests as trees, so that what requests have in common is computed once.

Requests that start with the same tokens share these as the trunk of a tree. A tree is one sequence of a
batch: its tokens stand in preorder, each at the position it has in its own request, and attend to their
ancestors alone. That gives every token the states it has in its request by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Request(NamedTuple):
    """A continuation whose likelihood is asked for.

    Attributes:
        tokens: what the model reads: the context, and the continuation without its last token.
        targets: the continuation, predicted at the last ``len(targets)`` of ``tokens``.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def split(self) -> tuple[list[int], list[int]]:
        """Context and continuation."""
        return list(self.tokens[: len(self.tokens) - len(self.targets) + 1]), list(self.targets)


def count_tokens(requests: Iterable[Request]) -> int:
    """Tokens that the model reads where each request is by itself."""
    return sum(len(request.tokens) for request in requests)


@dataclass
class Tree:
    """Requests with what they share merged; nodes are numbered in preorder.

    Attributes:
        tokens: token of each node.
        depths: number of ancestors of each node: its position in its request.
        ends: last descendant of each node, plus one.
        tails: request → the nodes that predict its targets.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    tails: dict[Request, list[int]] = field(default_factory=dict)
    path: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest request."""
        return max(self.depths) + 1

    def shared(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens are those of the request added last."""
        same = (self.tokens[node] == token for node, token in zip(self.path, tokens, strict=False))
        return sum(takewhile(bool, same))

    def add(self, request: Request) -> None:
        """Add a request; requests must come in the order of their tokens."""
        shared = self.shared(request.tokens)
        del self.path[shared:]
        for token in request.tokens[shared:]:
            self.path.append(len(self.tokens))
            self.depths.append(len(self.path) - 1)
            self.tokens.append(token)
            self.ends.append(0)
        for node in self.path:
            self.ends[node] = len(self.tokens)
        self.tails[request] = self.path[len(request.tokens) - len(request.targets) :]


def grow(requests: Iterable[Request], attention: float, limit: int) -> list[Tree]:
    """Trees of all distinct requests.

    A request joins the tree before it where that costs less than a tree of its own: n nodes cost
    n + ``attention`` · n², for all of them are compared with each other.

    Args:
        attention: cost of comparing two nodes, relative to that of a node.
        limit: nodes of a tree at most; a single request may have more.
    """

    def cost(nodes: int) -> float:
        return nodes + attention * nodes**2

    trees: list[Tree] = []
    for request in sorted(set(requests)):
        alone = len(request.tokens)
        if trees:
            joined = len(trees[-1]) + alone - trees[-1].shared(request.tokens)
            if joined > limit or cost(joined) > cost(len(trees[-1])) + cost(alone):
                trees.append(Tree())
        else:
            trees.append(Tree())
        trees[-1].add(request)
    return trees


def make_batches(trees: Iterable[Tree], budget: int) -> Iterator[list[Tree]]:
    """Trees of similar size together, the largest first; ``budget``: tokens of a batch, with padding."""
    batch: list[Tree] = []
    for tree in sorted(trees, key=len, reverse=True):
        if batch and len(batch[0]) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


class TreeBatch:
    """Trees as the rows of a batch, filled up on the right with tokens that only see themselves.

    Attributes:
        nodes: of all trees, without what they are filled up with.
        ids, positions: [trees, tokens] int64.
        requests: the requests of all trees, one after the other.
    """

    def __init__(self, trees: Sequence[Tree]) -> None:
        import torch

        self.width, self.nodes = max(map(len, trees)), sum(map(len, trees))
        self.ids = torch.tensor([self._filled(tree.tokens, 0) for tree in trees])
        self.positions = torch.tensor([self._filled(tree.depths, 0) for tree in trees])
        self._ends = torch.tensor([self._filled(tree.ends, -1) for tree in trees])
        self.requests = [request for tree in trees for request in tree.tails]
        self._nodes = [
            row * self.width + node
            for row, tree in enumerate(trees)
            for nodes in tree.tails.values()
            for node in nodes
        ]

    def _filled(self, values: list[int], fill: int) -> list[int]:
        return values + [fill] * (self.width - len(values))

    @cached_property
    def targets(self) -> Tensor:
        """[predictions] int64, the targets of all requests one after the other."""
        import torch

        return torch.tensor([token for request in self.requests for token in request.targets])

    @cached_property
    def owners(self) -> Tensor:
        """[predictions] int64, the number of the request of each target."""
        import torch

        counts = torch.tensor([len(request.targets) for request in self.requests])
        return torch.arange(len(counts)).repeat_interleave(counts)

    @cached_property
    def heads(self) -> tuple[Tensor, Tensor]:
        """The nodes that predict something, as numbers in the flattened batch, [heads] int64; and
        which of them predicts each target, [predictions] int64."""
        import torch

        nodes, which = torch.tensor(self._nodes).unique(return_inverse=True)
        return nodes, which

    def seen(self, window: int | None = None) -> Tensor:
        """[trees, tokens, tokens] bool: whether the token of a row attends to that of a column.

        Args:
            window: only to the last so many tokens of its request, itself included.
        """
        import torch

        number = torch.arange(self.width)
        ends = self._ends.where(self._ends >= 0, number + 1)
        seen = (number[:, None] >= number) & (number[:, None] < ends[:, None, :])
        if window is not None:
            seen &= self.positions[:, :, None] - self.positions[:, None, :] < window
        return seen

    def mask(self, dtype: torch.dtype, window: int | None = None) -> Tensor:
        """What to add to the attention scores, [trees, 1, tokens, tokens]."""
        import torch

        seen = self.seen(window)[:, None]
        return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)

    def inputs(self, model: Any) -> dict[str, Tensor]:
        """What a model is called with."""
        device = model.get_input_embeddings().weight.device
        return {
            "input_ids": self.ids.to(device),
            "position_ids": self.positions.to(device),
            "attention_mask": self.mask(model.dtype).to(device),
        }
