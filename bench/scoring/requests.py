"""What a task asks, as a hash: the same in every run that asks the same."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.api.task import Task


def requests_hash(task: Task) -> str:
    """SHA-256 of all requests with their items, and of what judges the answers."""
    digest = hashlib.sha256()
    judged = {key: task.get_config(key) for key in ("metric_list", "filter_list", "repeats")}
    digest.update(_text(judged))
    for instance in task.instances:
        asked = [instance.request_type, instance.idx, instance.doc_id, instance.arguments, instance.doc]
        digest.update(_text(asked))
    return f"sha256:{digest.hexdigest()}"


def samples(task: Task) -> bool:
    """Whether answers are drawn at random, so that they depend on who is in a batch together."""
    return any(
        isinstance(part, dict) and part.get("do_sample")
        for instance in task.instances
        if instance.request_type == "generate_until"
        for part in instance.arguments
    )


def _text(value: Any) -> bytes:
    return json.dumps(value, default=_plain).encode()


def _plain(value: Any) -> Any:
    """What is not JSON as something that is, without the addresses of a process."""
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "tobytes"):  # an image
        return hashlib.sha256(value.tobytes()).hexdigest()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return getattr(value, "__qualname__", type(value).__qualname__)
