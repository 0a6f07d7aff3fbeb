"""The objective that a student predicts the next tokens of data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import datasets
import torch
from datasets import Dataset
from torch import Tensor

from replaceme.calibration import Batch
from replaceme.errors import InputError
from replaceme.healing.course_trainer import CourseTrainer, leave_alone
from replaceme.healing.examples import IGNORED, Example
from replaceme.healing.from_trl import DataCollatorForLanguageModeling, pack_dataset
from replaceme.healing.logits import is_half, log_softmax, mixed
from replaceme.healing.order import list_steps
from replaceme.io.quiet import silence
from replaceme.logits import tokens_at_once

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from replaceme.healing.course import Course
    from replaceme.healing.pair import Pair
    from replaceme.healing.settings import Training

ALIKE = 0.03  # how far two ways to the same logits may be apart, as a share of their norm


class FineTuning:
    """A student learns tokens of examples, whatever its teacher predicts."""

    shared = 0

    def __init__(
        self,
        pair: Pair,
        tokenizer: Any,
        examples: Sequence[Example],
        held: Sequence[Example],
        training: Training,
        max_length: int,
    ) -> None:
        """Nothing runs yet.

        Args:
            examples: to train on.
            held: those that judge.
            max_length: tokens that short examples are put together to, where they are.

        Raises:
            InputError: they do not fill a step, sequences that are put together would see each other in
                models of this family, or the device is not the first of several.
        """
        self.pair, self.tokenizer, self.training = pair, tokenizer, training
        self.model: PreTrainedModel = pair.student.model
        self.examples = pack(examples, max_length) if training.packing else list(examples)
        self.held = held
        if len(next(self.list_steps())) < training.batch_size:
            raise InputError(
                f"{len(self.examples):,} sequences are fewer than one step of {training.batch_size} "
                f"takes; give more, or a smaller batch_size."
            )
        if self.model.device.index:
            raise InputError(
                f"objective: sft trains on the first GPU, not on {self.model.device}; choose another by "
                f"CUDA_VISIBLE_DEVICES."
            )
        if training.packing:
            self._check_apart()

    @torch.no_grad()
    def measure(self) -> float:
        """Mean cross entropy of the held-back tokens that are learnt, in nats."""
        self.model.eval()
        total, count = 0.0, 0
        for rows in self._judging():
            ends, goals = self._ends(rows)
            size = tokens_at_once(self.model)
            for here, wanted in zip(ends.split(size), goals.split(size), strict=True):
                with mixed(self.pair.teacher.model):
                    logits = self.pair.student.predict(here[None])[0]
                total -= float(log_softmax(logits).gather(1, wanted[:, None]).sum())
            count += len(goals)
        return total / count

    def train(self, course: Course) -> None:
        with TemporaryDirectory() as folder, leave_alone(self.model), silence():
            CourseTrainer(
                self.model,
                self.tokenizer,
                course,
                self.list_steps,
                half=is_half(self.pair.teacher.model),
                folder=folder,
            ).train()

    @torch.no_grad()
    def _check_apart(self) -> None:
        """Refuse a model in which a sequence is not what it is alone when it stands behind another."""
        found = [example for example in self.examples if example.parts and len(example.parts) > 1]
        if not found:
            return
        start = (found[0].parts or (0,))[0]
        end = start + (found[0].parts or (0, 0))[1]
        collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
        inputs = collate([found[0].features()])
        del inputs["labels"]
        device, alone = self.model.device, torch.tensor([found[0].ids[start:end]])
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
        with mixed(self.pair.teacher.model):
            wanted = self.model(input_ids=alone.to(device), use_cache=False).logits[0].float()
            behind = self.model(**moved, use_cache=False).logits[0, start:end].float()
        if (behind - wanted).norm() > ALIKE * wanted.norm():
            raise InputError(
                f"packing: sequences that are put together see each other in "
                f"{self.pair.student.architecture.title}; leave packing off."
            )

    def list_steps(self) -> Iterator[list[Example]]:
        """The examples of each step, without end."""
        lengths = self.pair.teacher.lengths
        return list_steps(self.examples, self.training.batch_size, lengths, self.training.seed)

    def _judging(self) -> Iterator[list[Example]]:
        """The examples that judge, those of similar length together."""
        size, lengths = self.training.batch_size, self.pair.teacher.lengths
        for alike in lengths.groups(sorted(self.held, key=len, reverse=True), len):
            yield from (alike[start : start + size] for start in range(0, len(alike), size))

    def _ends(self, rows: list[Example]) -> tuple[Tensor, Tensor]:
        """Last states before tokens that are learnt, [tokens, d], and these tokens."""
        student = self.pair.student
        labels = Batch.of([example.labels for example in rows], pad=IGNORED).ids.to(self.model.device)
        with mixed(self.pair.teacher.model):
            states, calls = student.enter(Batch.of([example.ids for example in rows]))
            for layer, call in enumerate(calls):
                states = student.pass_through(layer, states, call)
        learnt = labels[:, 1:] != IGNORED
        return states[:, :-1][learnt], labels[:, 1:][learnt]


def pack(examples: Sequence[Example], max_length: int) -> list[Example]:
    """Short examples put together, up to ``max_length`` tokens; none is cut."""
    rows = Dataset.from_list([example.features() for example in examples])
    with _without_bars():
        packed = pack_dataset(rows, max_length)
    return [
        Example(row["input_ids"], row["labels"], tuple(row["seq_lengths"])) for row in packed.to_list()
    ]


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without the progress bars of ``datasets``."""
    shown = not datasets.utils.are_progress_bars_disabled()
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.utils.enable_progress_bars()
