"""trl's SFTTrainer on the steps of a course."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from replaceme.healing.examples import Example
from replaceme.healing.from_trl import SFTConfig, SFTTrainer
from replaceme.healing.order import split

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from replaceme.healing.course import Course
    from replaceme.healing.settings import Training

ENDLESS = 2**31  # steps; the course ends them


class CourseTrainer(SFTTrainer):
    """Takes its batches from a course, and tells it of each step.

    What requires gradients in the model stays as it is. Budget, learning rate, clipping, judging and
    saving are the course's; forward, loss, backward and mixed precision are trl's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        course: Course,
        list_steps: Callable[[], Iterator[list[Example]]],
        *,
        half: bool,
        folder: str,
    ) -> None:
        """Nothing runs yet.

        Args:
            list_steps: lists the examples of each step, from the first one on.
            half: run the forward under autocast in bfloat16.
            folder: for what trl would write; nothing is kept of it.
        """
        self._course, self._list_steps = course, list_steps
        self._rows: list[Example] = []  # of the step that runs
        self._mean = 0.0  # loss of its learnt tokens, in nats
        cpu = model.device.type == "cpu"
        super().__init__(
            model=model,
            args=_arguments(course.training, half=half, cpu=cpu, folder=folder),
            train_dataset=Dataset.from_list([next(list_steps())[0].features()]),  # only looked at
            processing_class=copy.deepcopy(tokenizer),  # trl gives it a padding token
            callbacks=[_Teller(self)],
            optimizers=(course.optimizer, None),
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> Iterator[dict[str, Tensor]]:
        """Batches of the course's steps; none is read ahead."""
        for rows in self._course.within(self._list_steps()):
            self._rows = rows
            for part in split(rows, self.args.gradient_accumulation_steps):
                yield self.data_collator([example.features() for example in part])
        self.control.should_training_stop = True

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        self._mean += float(loss)  # of one forward, as its share of the step's
        return loss

    def begin(self) -> None:
        """Before a step; its dropout follows from the seed and the number of the step alone."""
        self._mean = 0.0
        torch.manual_seed(self._course.training.seed + self._course.steps)

    def prepare(self) -> None:
        """Before the optimizer does the step."""
        self._course.prepare(self._tokens, self._mean)

    def count(self) -> None:
        """After that."""
        learnt = sum(example.learnt for example in self._rows)
        self._course.count(self._tokens, self._mean * learnt, learnt)

    @property
    def _tokens(self) -> int:
        return sum(map(len, self._rows))

    def _send_telemetry(self) -> None:
        """Tells nobody."""


class _Teller(TrainerCallback):
    """Tells a trainer where its step is."""

    def __init__(self, trainer: CourseTrainer) -> None:
        self._trainer = trainer

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._trainer.begin()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._trainer.prepare()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._trainer.count()


def _arguments(training: Training, *, half: bool, cpu: bool, folder: str) -> SFTConfig:
    found = SFTConfig(
        output_dir=folder,
        max_steps=ENDLESS,
        per_device_train_batch_size=training.batch_size // training.accumulate,
        gradient_accumulation_steps=training.accumulate,
        gradient_checkpointing=training.checkpointing,
        learning_rate=training.rate,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        bf16=half,
        use_cpu=cpu,
        seed=training.seed,
        packing=training.packing,
        dataset_kwargs={"skip_prepare_dataset": True},
        router_aux_loss_coef=0.0,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    if not cpu:
        found._n_gpu = 1  # the others are left alone
    return found


@contextmanager
def leave_alone(model: PreTrainedModel) -> Iterator[None]:
    """Have a trainer change neither a model beyond its parameters nor torch's random numbers."""
    forward, config = vars(model).get("forward"), model.config
    model.config = copy.deepcopy(config)
    devices = [] if model.device.type == "cpu" else [model.device]
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for name in ("forward", "_original_forward"):
            vars(model).pop(name, None)
        if forward is not None:
            model.forward = forward
        model.config = config
        model.gradient_checkpointing_disable()
        model.eval()
