"""What the process that has a model write is to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from replaceme.calibration import Generated


class Job(BaseModel):
    """A model, what its texts begin with, and how many tokens it is to write.

    Attributes:
        folder: of its checkpoint.
        texts: file of the texts, which each is appended to, see
            :class:`bench.scoring.generation.texts.Texts`.
        scope: what the texts of that file depend on.
        starts: token ids that texts go on from: one for all, or one for each.
        answers: a text is what comes behind its start, without it.
        limit: texts at most; ``None``: as many as are needed.
        longest: tokens of a start and its text at most.
        dtype: to compute in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    texts: Path
    scope: dict[str, str | None]
    starts: list[list[int]]
    answers: bool
    limit: int | None = None
    generated: Generated
    longest: int
    dtype: str
    trust_remote_code: bool = False

    def start(self, index: int) -> list[int]:
        """What a text goes on from."""
        return self.starts[index % len(self.starts)]

    def list_wanted(self, tokens: Mapping[int, int]) -> list[int]:
        """Numbers of the texts that are needed, of which some may be there.

        They are as many, from the first on, as together have the tokens that are wanted. A text that is
        not there is taken to be as long as the mean, or as long as it may be where none is.

        Args:
            tokens: text → number of tokens that were written, 1 at least.
        """
        usual = sum(tokens.values()) / len(tokens) if tokens else self.longest
        wanted, total = list[int](), 0.0
        while total < self.generated.tokens and len(wanted) != self.limit:
            total += tokens.get(len(wanted), usual)
            wanted.append(len(wanted))
        return wanted
