"""What a task asks of a model, and what that replies: without the task, for whoever has the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from lm_eval.api.instance import Instance

    from bench.scoring.generation.texts import Text


@dataclass(frozen=True)
class Requests:
    """What a task asks of a model.

    Attributes:
        instances: lm-eval's requests, without their items.
        written: whether the texts that are asked for are there already.
        seed: of torch; ``None``: none is set.
        random_state: of torch's generator on the CPU, from which texts are drawn.
    """

    instances: list[Instance]
    written: bool
    seed: int | None
    random_state: torch.Tensor

    def each_kind(self) -> Iterator[tuple[str, list[Instance]]]:
        """What is to be answered, by lm-eval's name of it, and as often as the task repeats it."""
        for kind in dict.fromkeys(instance.request_type for instance in self.instances):
            if not (self.written and kind == "generate_until"):
                alike = (one for one in self.instances if one.request_type == kind)
                yield kind, [one for one in alike for _ in range(one.repeats or 1)]


@dataclass(frozen=True)
class Replies:
    """What a model replied.

    Attributes:
        by_kind: in the order of the requests of a kind.
        generated: what is known of the texts among them.
        seconds: that it took.
    """

    by_kind: dict[str, list[Any]]
    generated: list[Text]
    seconds: float
