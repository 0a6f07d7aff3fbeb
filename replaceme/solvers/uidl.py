"""Plain removal: the paper's baseline."""

from __future__ import annotations

from typing import ClassVar

from replaceme.solvers.base import Problem, Solution, Solver


class Uidl(Solver):
    """T = I: the block is dropped and nothing takes its place (UIDL, arXiv 2403.17887, section 3)."""

    name: ClassVar[str] = "uidl"
    summary: ClassVar[str] = "plain removal, nothing fitted"

    def solve(self, problem: Problem) -> Solution:
        from replaceme.edit import Edit

        return Solution(Edit(problem.blocks), {})
