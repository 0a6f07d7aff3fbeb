"""Token sequences → batches, padded on the right.

Attention is causal, so padding cannot reach a real token, and no statistic reads a padded position (but
for ``compat: reference``, see :mod:`replaceme.compat.reference`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from replaceme.lengths import ALIKE, Lengths

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def padding_token(tokenizer: Any) -> int:
    """The token that the tokenizer pads with, or its EOS where it has none."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return pad or 0


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids.

    Attributes:
        ids: [sequences, tokens] int64.
        lengths: [sequences] int64, number of real tokens in each row.
        ranks: [counted tokens] int64, place of each counted token (row by row) in a seeded random
            order of all calibration tokens; the tokens with rank < k are a uniform sample of k tokens.
        counts_padding: whether moments count padding as tokens (``compat: reference``).
    """

    ids: Tensor
    lengths: Tensor
    ranks: Tensor
    counts_padding: bool = False

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], ranks: Tensor | None = None, pad: int = 0) -> Batch:
        """A batch of token sequences, filled up with ``pad``.

        Without ``ranks`` the tokens are ranked as they come.
        """
        import torch

        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), int(lengths.max())), pad)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row)] = torch.tensor(row)
        return cls(ids, lengths, torch.arange(int(lengths.sum())) if ranks is None else ranks)

    @property
    def mask(self) -> Tensor:
        """[sequences, tokens] bool, true at real tokens."""
        import torch

        return torch.arange(self.ids.shape[1]) < self.lengths[:, None]

    def inputs(self, model: PreTrainedModel) -> dict[str, Any]:
        """What a model is called with.

        Right padding and causal attention make an attention mask unnecessary for the real tokens; it
        is given where padding counts.
        """
        device = model.get_input_embeddings().weight.device
        mask = self.mask.to(device) if self.counts_padding else None
        return {"input_ids": self.ids.to(device), "attention_mask": mask}

    @property
    def counted(self) -> Tensor:
        """[sequences, tokens] bool, true at the tokens that moments count."""
        return self.mask | self.counts_padding


@dataclass(frozen=True)
class Batches:
    """All calibration tokens; can be iterated any number of times.

    Attributes:
        pad: token that fills up shorter sequences; it changes nothing unless padding counts.
        lengths: which sequences the model treats alike; only these come together.
    """

    sequences: list[list[int]]
    batch_size: int = 8
    seed: int = 42
    pad: int = 0
    lengths: Lengths = ALIKE

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))

    @property
    def counted(self) -> int:
        """Number of tokens that moments count."""
        return self.tokens

    def __len__(self) -> int:
        return sum(1 for _ in self._rows())

    def __iter__(self) -> Iterator[Batch]:
        """Batches of sequences of similar length, longest first."""
        import torch

        ranks = torch.randperm(self.tokens, generator=torch.Generator().manual_seed(self.seed))
        seen = 0
        for rows in self._rows():
            count = sum(map(len, rows))
            yield Batch.of(rows, ranks[seen : seen + count], self.pad)
            seen += count

    def _rows(self) -> Iterator[list[list[int]]]:
        for alike in self.lengths.groups(sorted(self.sequences, key=len, reverse=True), len):
            for start in range(0, len(alike), self.batch_size):
                yield alike[start : start + self.batch_size]

    def evenly(self, tokens: int) -> Batches:
        """Sequences from all over, ``tokens`` tokens at most (but one sequence at least)."""
        whole = len(self.sequences)
        count = max(1, min(whole, whole * tokens // self.tokens))
        chosen = [self.sequences[i * whole // count] for i in range(count)]
        fitting = sum(total <= tokens for total in accumulate(map(len, chosen)))
        return replace(self, sequences=chosen[: max(1, fitting)])

    def held_back(self, tokens: int) -> tuple[Batches, Batches]:
        """Two disjoint parts: the sequences to fit on, and those of :meth:`numbers_held_back`."""
        judged = self.numbers_held_back(tokens)
        split = [
            [row for i, row in enumerate(self.sequences) if (i in judged) == side] for side in (0, 1)
        ]
        fitted, held = (replace(self, sequences=rows) for rows in split)
        return fitted, held

    def numbers_held_back(self, tokens: int) -> set[int]:
        """Which sequences to judge on, about ``tokens`` tokens.

        They are taken evenly from the whole; it is at most a tenth of the sequences, and none where that
        is less than one.
        """
        mean = max(1, self.tokens // max(1, len(self.sequences)))
        count = min(-(-tokens // mean), len(self.sequences) // 10)
        return {round((i + 0.5) * len(self.sequences) / count - 0.5) for i in range(count)}
