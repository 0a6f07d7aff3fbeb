"""A step of healing against plain forwards and a backward over the same tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div

from replaceme import Block
from replaceme.calibration import Batch, Batches
from replaceme.decoder import Decoder
from replaceme.edit import Edit, apply
from replaceme.healing import Training
from replaceme.healing.distillation import Distillation
from replaceme.healing.pair import Pair
from replaceme.healing.parts import choose
from replaceme.healing.trained import open_parameters

pytestmark = pytest.mark.slow

CUT = Edit((Block(13, 19),))  # of 30 layers
WAYS = ["plain", "plain, same parameters", "projection", "mlp", "all"]


@pytest.fixture(scope="module")
def teacher(real_model: Any) -> Decoder:
    return Decoder.of(copy.deepcopy(real_model).float())


@pytest.fixture(scope="module")
def rows(batches: Batches) -> Batch:
    return Batch.of(batches.sequences[:8])


def plain(teacher: Any, student: Any, batch: Batch) -> None:
    """All logits of both, the loss between them, and its gradients."""
    with torch.no_grad():
        goal = teacher(batch.ids, use_cache=False).logits.log_softmax(-1)
    found = student(batch.ids, use_cache=False).logits.log_softmax(-1)
    kl_div(found, goal, reduction="sum", log_target=True).backward()


@pytest.mark.benchmark(group="a step at a middle cut against plain forwards and a backward")
@pytest.mark.parametrize("way", WAYS)
def test_step(benchmark: Any, teacher: Decoder, rows: Batch, way: str) -> None:
    benchmark.extra_info["tokens"] = int(rows.lengths.sum())
    if way.startswith("plain"):
        student = copy.deepcopy(teacher.model).requires_grad_(way == "plain")
        apply(student, teacher.architecture, CUT)
        for layer in student.model.layers[12:]:
            layer.mlp.down_proj.weight.requires_grad_(True)
        benchmark.pedantic(plain, (teacher.model, student, rows), rounds=3, warmup_rounds=1)
        return
    pair, training = Pair.of_edit(teacher, CUT), Training(train=way)  # type: ignore[arg-type]
    open_parameters(pair, training, choose(pair, training))
    distillation = Distillation(pair)

    def learn() -> float:
        return distillation.learn(distillation.start([rows]), 1e-3)

    benchmark.pedantic(learn, rounds=3, warmup_rounds=1)
    assert distillation.shared == 12
