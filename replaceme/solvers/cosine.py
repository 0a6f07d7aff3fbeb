"""Cosine distance, minimised with Adam."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from replaceme.solvers.base import Solution, Solver

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from replaceme.statistics import Moments, TokenSample


class Cosine(Solver):
    """``min_T mean(1 − cos(M T, L − Y))`` from T = I (ReplaceMe, arXiv 2505.02819, eq. 6).

    With ``exact`` the objective is ``1 − cos(M T + Y, L)``, the angle of the states themselves. Adam
    with the paper's settings (Table 14): learning rate 1e-4, 1,024 tokens a step, 10 epochs.
    """

    name: ClassVar[str] = "cosine"
    summary: ClassVar[str] = "cosine distance of the hidden states, Adam"

    exact: bool = Field(False, description="cos(M T + Y, L) instead of cos(M T, L − Y)")
    epochs: int = Field(10, gt=0, description="passes over the token sample")
    learning_rate: float = Field(1e-4, gt=0, description="Adam's learning rate")
    step_tokens: int = Field(1024, gt=0, description="tokens per step")
    tokens: int = Field(65536, gt=0, description="size of the token sample at most")

    @property
    def sample_tokens(self) -> int:
        return self.tokens

    def solve(self, moments: Moments, seed: int = 42) -> Solution:
        import torch

        sample = moments.sample.first(self.tokens)
        generator = torch.Generator().manual_seed(seed)
        orders = (torch.randperm(len(sample), generator=generator) for _ in range(self.epochs))
        transform, loss = self.descend(sample, orders, moments.gram.device)
        steps = self.epochs * -(-len(sample) // self.step_tokens)
        return Solution(transform, {"steps": steps, "tokens": len(sample), "last_loss": loss})

    def descend(
        self, sample: TokenSample, orders: Iterator[Tensor], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, float]:
        """Adam over ``sample``, one epoch for each order (a permutation of the sample's tokens).

        Returns:
            T [d, d] float64, and the loss of the last step.
        """
        import torch

        mlp, before, after = (states.float() for states in (sample.mlp, sample.before, sample.after))
        offset = before - mlp if self.exact else torch.zeros_like(mlp)
        target = after if self.exact else after - (before - mlp)
        transform = torch.eye(mlp.shape[1], device=device, requires_grad=True)
        optimizer = torch.optim.Adam([transform], lr=self.learning_rate)
        loss = torch.tensor(float("nan"))
        for order in orders:
            for rows in order.split(self.step_tokens):
                x, y, goal = (states[rows].to(device) for states in (mlp, offset, target))
                cosine = torch.nn.functional.cosine_similarity(x @ transform + y, goal, dim=-1)
                loss = (1 - cosine).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return transform.detach().double(), loss.item()
