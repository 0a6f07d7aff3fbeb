"""Cosine distance, minimised with Adam or by reweighted least squares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from replaceme.solvers.base import TransformSolver
from replaceme.solvers.linear import solve_psd

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from replaceme.selection import Block
    from replaceme.solvers.base import Problem
    from replaceme.statistics import BlockStatistics, Needs, TokenSample

Shape = Literal["full", "diagonal", "triangular", "outer"]


class Cosine(TransformSolver):
    """``min_T mean(1 − cos(M T, L − Y))`` from T = I (ReplaceMe, arXiv 2505.02819, eq. 6).

    With ``exact`` the objective is ``1 − cos(M T + Y, L)``, the angle of the states themselves.

    ``adam``: Adam with the paper's settings (Table 14): learning rate 1e-4, 1,024 tokens a step, 10
    epochs. ``irls``: the same objective without a learning rate. With x̂ = M T + Y and the target L it
    solves least squares again and again, with row weights 1/‖x̂‖² and targets
    ``L·‖x̂‖/‖L‖ + (1 − cos)·x̂``, whose fixed points are where the gradient vanishes.
    """

    name: ClassVar[str] = "cosine"
    summary: ClassVar[str] = "cosine distance of the hidden states; the paper's own"
    rank: ClassVar[int] = 2

    method: Literal["adam", "irls"] = Field(
        "adam", description="adam, or irls: reweighted least squares"
    )
    exact: bool = Field(False, description="cos(M T + Y, L) instead of cos(M T, L − Y)")
    shape: Shape = Field("full", description="of T with adam: full, diagonal, triangular, outer")
    loss: Literal["cosine", "mse", "elasticnet"] = Field(
        "cosine", description="what adam minimises; the reference's losses"
    )
    epochs: int = Field(10, gt=0, description="adam: passes over the token sample")
    learning_rate: float = Field(1e-4, gt=0, description="adam: learning rate")
    step_tokens: int = Field(1024, gt=0, description="adam: tokens per step")
    tokens: int = Field(65536, gt=0, description="size of the token sample at most")
    iterations: int = Field(50, gt=0, description="irls: solves at most")
    tolerance: float = Field(1e-6, gt=0, description="irls: stop when T changes less, relative")

    @model_validator(mode="after")
    def _irls_is_plain(self) -> Self:
        if self.method == "irls" and (self.shape != "full" or self.loss != "cosine"):
            raise ValueError(
                f"method irls fits a full transform to the cosine loss; shape {self.shape} and loss "
                f"{self.loss} go with adam"
            )
        return self

    @property
    def is_diagonal(self) -> bool:
        return self.shape == "diagonal"

    @property
    def needs(self) -> Needs:
        from replaceme.statistics import Needs

        return Needs(sample_tokens=self.tokens)

    def transforms(self, problem: Problem) -> dict[Block, tuple[Tensor, dict[str, Any]]]:
        if not problem.in_turn:
            return super().transforms(problem)
        from replaceme.compat.reference import transforms_in_turn

        return transforms_in_turn(self, problem)

    def transform(self, statistics: BlockStatistics, seed: int = 42) -> tuple[Tensor, dict[str, Any]]:
        sample = statistics.sample.first(self.tokens).to(statistics.device)
        if self.method == "irls":
            return self.reweight(sample)
        found, loss = self.descend(sample, self.orders(len(sample), seed))
        steps = self.epochs * -(-len(sample) // self.step_tokens)
        return found, {"steps": steps, "tokens": len(sample), "last_loss": loss}

    def orders(self, count: int, seed: int) -> Iterator[Tensor]:
        """For each epoch of ``adam`` a permutation of ``count`` tokens."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        return (torch.randperm(count, generator=generator) for _ in range(self.epochs))

    def _regression(self, sample: TokenSample) -> tuple[Tensor, Tensor, Tensor]:
        """(X, offset, target) float32, so that ``X T + offset`` is to point where ``target`` does."""
        import torch

        mlp, before, after = (s.float() for s in (sample.mlp, sample.before, sample.after))
        rest = before - mlp
        return (mlp, rest, after) if self.exact else (mlp, torch.zeros_like(mlp), after - rest)

    def descend(self, sample: TokenSample, orders: Iterator[Tensor]) -> tuple[Tensor, float]:
        """Adam over ``sample``, one epoch for each order (a permutation of the sample's tokens).

        Returns:
            T [d, d] float64, and the loss of the last step.
        """
        import torch

        x, offset, target = self._regression(sample)
        parameters, matrix = _parametrise(self.shape, x.shape[1], x.device)
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate)
        loss = torch.tensor(float("nan"))
        for order in orders:
            for rows in order.to(x.device).split(self.step_tokens):
                loss = _LOSSES[self.loss](x[rows] @ matrix() + offset[rows], target[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return matrix().detach().double(), loss.item()

    def reweight(self, sample: TokenSample) -> tuple[Tensor, dict[str, Any]]:
        """Iteratively reweighted least squares over ``sample``.

        Returns:
            T [d, d] float64, and the number of solves, the last relative change, rank and condition.
        """
        import torch

        x, offset, target = self._regression(sample)
        transform = torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
        notes: dict[str, Any] = {}
        for iteration in range(1, self.iterations + 1):
            correction, notes = _reweighted_step(x, offset, target, transform)
            transform = transform + correction
            change = float(correction.norm() / transform.norm())
            notes |= {"iterations": iteration, "change": change, "tokens": len(sample)}
            if change < self.tolerance:
                break
        return transform, notes


def _reweighted_step(
    x: Tensor, offset: Tensor, target: Tensor, transform: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """The change of T in one weighted solve: row weights 1/‖x̂‖², residual ``L‖x̂‖/‖L‖ − cos·x̂``.

    In float64, so that directions without data stay empty instead of holding rounding errors.
    """
    import torch

    gram = torch.zeros(len(transform), len(transform), dtype=torch.float64, device=x.device)
    cross = torch.zeros_like(gram)
    for parts in zip(*(t.split(8192) for t in (x, offset, target)), strict=True):
        part, rest, goal = (states.double() for states in parts)
        predicted = part @ transform + rest
        length = predicted.norm(dim=1, keepdim=True).clamp_min(1e-20)
        aim, direction = goal / goal.norm(dim=1, keepdim=True).clamp_min(1e-20), predicted / length
        cosine = (aim * direction).sum(1, keepdim=True)
        rows = part / length
        gram += rows.mT @ rows
        cross += rows.mT @ (aim - cosine * direction)
    return solve_psd(gram, cross)


def _parametrise(
    shape: Shape, size: int, device: torch.device
) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """Parameters to optimise, started as the reference does, and T [size, size] as their function."""
    import torch

    if shape == "outer":
        left, right = (torch.ones(size, device=device, requires_grad=True) for _ in range(2))
        return [left, right], lambda: torch.outer(left, right)
    if shape == "diagonal":
        entries = torch.ones(size, device=device, requires_grad=True)
        return [entries], entries.diag
    matrix = torch.eye(size, device=device, requires_grad=True)
    return [matrix], (lambda: matrix) if shape == "full" else matrix.triu


def _cosine_loss(predicted: Tensor, target: Tensor) -> Tensor:
    import torch

    return (1 - torch.nn.functional.cosine_similarity(predicted, target, dim=-1)).mean()


def _mse_loss(predicted: Tensor, target: Tensor) -> Tensor:
    return (predicted - target).square().mean()


def _elasticnet_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """The reference's: squared error plus penalties on the prediction's 1-norm and squared 2-norm."""
    penalty = 0.09 * predicted.abs().sum() + 0.045 * predicted.square().sum()
    return _mse_loss(predicted, target) + penalty


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": _cosine_loss,
    "mse": _mse_loss,
    "elasticnet": _elasticnet_loss,
}
