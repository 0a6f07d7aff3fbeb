"""The memory that healing takes on its device, told from the headers of a checkpoint's files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from replaceme.architectures import layer_count
from replaceme.errors import InputError
from replaceme.healing.settings import LAST
from replaceme.io import contents, loading, models
from replaceme.io.layers import HELD
from replaceme.logits import logit_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replaceme.checkpoint import Checkpoint
    from replaceme.healing.settings import Training
    from replaceme.selection import Block

TRAINED = 24  # bytes of a trained number: it, its gradient, two means, what is between, and a half
EXACT, HALF = 4, 2  # bytes of a number
REST = 1 << 30  # of libraries


class Need(NamedTuple):
    """Bytes that healing takes on its device.

    Attributes:
        whole: with the model in memory.
        brought: with its layers brought one by one; ``None``: so it cannot be trained.
        passing: of the latter, what comes and goes.
    """

    whole: int
    brought: int | None
    passing: int

    def is_brought(self, memory: int | None) -> bool:
        """Whether layers are brought one by one, where so many bytes may be taken."""
        return memory is not None and self.whole > memory and self.brought is not None

    def within(self, memory: int | None) -> int:
        """What is taken, where so many bytes may be."""
        return self.brought if self.brought and self.is_brought(memory) else self.whole


@dataclass(frozen=True)
class Sizes:
    """Numbers of a model, by the headers of its files.

    Attributes:
        whole: of all its tensors.
        layers: number of decoder layers.
        layer: of one, the mean, as are the next three.
        output: of the matrix that ends its MLP.
        sides: of inputs and outputs of all its matrices, together.
        head: of an output matrix that is not the embeddings.
        width: of a hidden state.
    """

    whole: int
    layers: int
    layer: int
    output: int
    sides: int
    head: int
    width: int

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Sizes:
        """Those of a checkpoint.

        Raises:
            InputError: a file cannot be read.
        """
        config = models.read_config(checkpoint.folder)
        architecture, layers = checkpoint.architecture, layer_count(config)
        whole = inside = output = sides = head = width = 0
        for name, stored in contents.stored_tensors(checkpoint.folder).items():
            size = math.prod(shape := stored.entry.shape)
            whole += size
            place = architecture.split(name)
            if place is None:
                head = size if name == "lm_head.weight" else head
            elif place[1] < layers:
                inside += size
                sides += sum(shape) if len(shape) == 2 else 0
                kind = architecture.kind(place[1])
                if len(shape) == 2 and kind.merges(place[2]):
                    output += size
                    width = shape[kind.merge_axis(place[2]) or 0]
        return cls(whole, layers, inside // layers, output // layers, sides // layers, head, width)

    def count_trained(self, training: Training, blocks: Sequence[Block]) -> int:
        """Numbers that are trained where some blocks were removed, but for norms."""
        behind = self._count_behind(blocks)
        rank: int = training.parameters().get("rank", 0)
        return {
            "projection": len(blocks) * self.output,
            "mlp": behind * self.output,
            "lora": behind * rank * self.sides,
            "tail": min(LAST, behind) * self.layer + self.head,
            "all": behind * self.layer + self.head,
        }[training.train]

    def compute_need(
        self, training: Training, tokens: int, blocks: Sequence[Block], half: bool, device: str
    ) -> Need:
        """What is taken on the device.

        Args:
            tokens: of a sequence.
            blocks: that were removed.
            half: whether the model is in half precision.
        """
        number, behind = (HALF if half else EXACT), self._count_behind(blocks)
        together = -(-training.batch_size // training.accumulate) * tokens
        inside = together * (number * self.sides + 2 * EXACT * self.width)
        between = together * number * self.width
        kept = inside + behind * between if training.checkpointing else behind * inside
        trained, logits = TRAINED * self.count_trained(training, blocks), logit_bytes(device)
        whole = number * self.whole + trained + kept + logits + REST
        held, passing = self.whole - (self.layers - HELD) * self.layer, inside + 2 * between + logits
        brought = number * held + trained + passing + REST if can_be_brought(training) else None
        return Need(whole, brought, passing)

    def _count_behind(self, blocks: Sequence[Block]) -> int:
        """Layers from the one before the first gap on."""
        return self.layers - sum(block.end - block.start for block in blocks) - (blocks[0].start - 1)


def can_be_brought(training: Training) -> bool:
    """Whether it can go on with one of the model's layers in memory at a time.

    Low-rank changes are merged into all matrices behind the gap; ``sft`` is done by trl.
    """
    return training.train != "lora" and not training.is_sft


def check_need(need: Need, training: Training, device: str, memory: int | None = None) -> None:
    """Refuse a training that its device has no room for.

    Args:
        memory: bytes that may be taken, where layers can be brought one by one; ``None``: all that the
            device has.

    Raises:
        InputError: saying how much it takes, how much there is, and what takes less.
    """
    there, less = loading.device_memory(device), ["a smaller batch_size, 'accumulate'"]
    said, more = f"on {device!r}, which has {there / 1e9:,.1f} GB", ""
    if memory is not None and need.brought is not None and memory < there:
        there, said = memory, f"and 'memory' allows {memory / 1e9:,.1f} GB"
        more = "; or allow more 'memory'"
    if (taken := need.within(memory)) <= there:
        return
    if not training.checkpointing and taken == need.whole:
        less.append("'checkpointing: true'")
    if training.train not in ("projection", "lora"):
        less.append("'train: projection' or 'lora'")
    if memory is None and need.brought is not None:
        less.append("the 'memory' of a suite, which brings layers one by one")
    raise InputError(
        f"training {training.train} takes about {taken / 1e9:,.1f} GB {said}; less is taken by "
        f"{', '.join(less)}{more}."
    )
