"""Plain removal: the paper's baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from replaceme.solvers.base import Solution, Solver

if TYPE_CHECKING:
    from replaceme.statistics import Moments


class Uidl(Solver):
    """T = I: the block is dropped and nothing takes its place (UIDL, arXiv 2403.17887, section 3)."""

    name: ClassVar[str] = "uidl"
    summary: ClassVar[str] = "plain removal, nothing fitted"

    def solve(self, moments: Moments, seed: int = 42) -> Solution:  # noqa: ARG002
        return Solution(None, {})
