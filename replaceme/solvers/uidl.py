"""Plain removal: the paper's baseline."""

from __future__ import annotations

from typing import ClassVar

from replaceme.edit import Edit
from replaceme.solvers.base import LayerSize, Problem, Solution, Solver


class Uidl(Solver):
    """T = I: the block is dropped and nothing takes its place (UIDL, arXiv 2403.17887, section 3)."""

    name: ClassVar[str] = "uidl"
    summary: ClassVar[str] = "plain removal, nothing fitted"
    rank: ClassVar[int] = 0
    fits: ClassVar[bool] = False

    def edit_bytes(self, size: LayerSize, gaps: int, layers: int) -> int:  # noqa: ARG002
        return 0

    def solve(self, problem: Problem) -> Solution:
        return Solution(Edit(problem.blocks), {})
