"""Whether the variants of a model can be forked exactly: reasons known beforehand, and a small model."""

from __future__ import annotations

from math import isclose
from typing import TYPE_CHECKING

import torch

from bench.scoring.fork import FULL, SLIDING, Fork, attention_kinds
from bench.scoring.trees import Request, TreeBatch, grow
from replaceme.architectures import build_small
from replaceme.decoder import Decoder
from replaceme.edit import Edit, apply
from replaceme.errors import told
from replaceme.selection import Block

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRUNK, BRANCHES = tuple(range(3, 12)), ((20, 21, 22), (23,), (20, 24))
TOLERANCE = 1e-3  # of log-likelihoods in nats


def find_obstacle(model: PreTrainedModel) -> str | None:
    """Why the variants of a model cannot be forked exactly, or ``None`` where they can."""
    if not type(model).__module__.startswith("transformers."):
        return "its class is not part of transformers, and may not take masks of trees"
    if getattr(model.config, "alibi", False):
        return "its ALiBi counts places in the sequence, not in the request"
    if unknown := {*attention_kinds(model.config)} - {FULL, SLIDING}:
        return f"its layers have {' and '.join(sorted(unknown))}"
    return _try_small(model)


@torch.no_grad()
def _try_small(model: PreTrainedModel) -> str | None:
    """What is wrong with the answers of a small model of the class, forked, if anything."""
    decoder = Decoder.of(build_small(model.config, type(model)))
    middle = len(decoder.layers) // 2
    edit = Edit((Block(middle, middle + 1),)) if middle else Edit()
    asked = [Request((*TRUNK, *branch[:-1]), branch) for branch in BRANCHES]
    asked.append(Request(TRUNK[2:], BRANCHES[1]))
    batch = TreeBatch(grow(asked, 0.0, 2**31))
    try:
        fork = Fork.of(decoder, {"cut": edit}, lambda _layer, _tensor, parameter: parameter.data)
        found = fork.answers(batch)["cut"]
    except Exception as error:
        return f"a small model of its class does not answer in one pass: {told(error)}"
    apply(decoder.model, decoder.architecture, edit)
    wanted = [_answer_alone(decoder.model, request) for request in batch.requests]
    if all(
        isclose(one.loglikelihood, other, abs_tol=TOLERANCE)
        for one, other in zip(found, wanted, strict=True)
    ):
        return None
    return "a small model of its class answers otherwise in one pass than request by request"


def _answer_alone(model: PreTrainedModel, request: Request) -> float:
    """Σ log p of the targets in nats, in a forward of the request by itself."""
    logits = model(input_ids=torch.tensor([request.tokens]), use_cache=False).logits[0]
    goals = torch.tensor(request.targets)
    return float(logits[-len(goals) :].log_softmax(-1).gather(1, goals[:, None]).sum())
