"""Which answer a model chose for each item of a task, as each of the task's metrics sees it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.changes import CHOSEN

if TYPE_CHECKING:
    from lm_eval.api.task import Task

Sample = dict[str, Any]
SIZES: dict[str, Callable[[str], int]] = {
    "acc_norm": len,
    "acc_bytes": lambda choice: len(choice.encode()),
}
DIGITS = 12  # of the hash that stands for a text


def chosen_answers(
    task: Task, samples: Sequence[Sample], docs: Sequence[Any], labels: Sequence[str]
) -> dict[str, list[Any]]:
    """Columns of chosen answers, one for each metric, as far as items are chosen for it.

    Of several choices it is the number of the likeliest, by the lengths that the metric divides by; of
    a single continuation, whether it is the likeliest (1) or not (0); of generated text, a hash of what
    the metric's filter leaves of it. A perplexity of whole texts chooses nothing.

    Args:
        samples: lm-eval's, of all filters.
        docs: the items, in the order of the columns.
        labels: metrics, behind a comma the filter where there is one.
    """
    kinds = {instance.request_type for instance in task.instances}
    if kinds not in ({"loglikelihood"}, {"generate_until"}):
        return {}
    choose = _hash if kinds == {"generate_until"} else _likeliest
    columns = {}
    for label in labels:
        metric, _, chain = label.partition(",")
        chain = chain or "none"
        found = {s["doc_id"]: s for s in samples if s.get("filter", chain) == chain}
        if all(doc in found for doc in docs):
            columns[CHOSEN + label] = [choose(task, found[doc], metric) for doc in docs]
    return columns


def _hash(_task: Task, sample: Sample, _metric: str) -> str:
    text = json.dumps(sample["filtered_resps"], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _likeliest(task: Task, sample: Sample, metric: str) -> int:
    """As ``process_results`` of lm-eval's tasks decides; of equal ones the first."""
    answers = sample["filtered_resps"]
    logs = np.array([loglikelihood for loglikelihood, _ in answers])
    if task.get_config("doc_to_choice") is None:
        return int(answers[0][1]) if len(answers) == 1 else int(np.argmax(logs))
    choices = task.doc_to_choice(sample["doc"])
    alone = logs[len(choices) :]  # without the context, where the task asks for that, too
    logs = logs[: len(choices)]
    if metric == "acc_mutual_info" and len(alone) == len(logs):
        logs = logs - alone
    elif metric in SIZES:
        logs = logs / np.array([float(SIZES[metric](choice)) for choice in choices])
    return int(np.argmax(logs))
