"""The smallest angle over all tokens."""

from __future__ import annotations

from typing import ClassVar, Literal

from replaceme.selectors.angular import Angular


class AngularMean(Angular):
    """As ``angular``, with the mean over all tokens of every sample."""

    name: ClassVar[str] = "angular-mean"
    summary: ClassVar[str] = "the same, mean over all tokens"
    tokens: ClassVar[Literal["last", "all"]] = "all"
    rank: ClassVar[int] = 1
