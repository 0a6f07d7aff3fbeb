"""What lm-eval, datasets and Jinja raise about a task, as a sentence that says where."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from replaceme.errors import InputError, told

PARTS = {
    "download": "loading its data",
    "training_docs": "reading its examples",
    "validation_docs": "reading its items",
    "test_docs": "reading its items",
    "fewshot_docs": "reading its examples",
    "get_fewshot_samples": "choosing examples",
    "fewshot_context": "making the prompt",
    "doc_to_text": "doc_to_text",
    "doc_to_choice": "doc_to_choice",
    "doc_to_target": "doc_to_target",
    "construct_requests": "making the requests",
    "process_results": "judging the answer",
    "apply_filters": "filtering the answers",
    "aggregation": "aggregating a metric",
    "__init__": "its settings or its first item",
}


@contextmanager
def in_words() -> Iterator[None]:
    """Where a task cannot be built or judged, say in what part, at which item, and why.

    Raises:
        InputError: instead of what was raised inside lm-eval's code of tasks.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if (part := _part(frames)) is None:
            raise
        raise InputError(f"lm-eval fails at {part}{_item(frames)}: {_reason(error)}") from error


def _part(frames: list[FrameType]) -> str | None:
    """What lm-eval's code of tasks was at; ``None``: it was not at work."""
    names = [f.f_code.co_name for f in frames if f.f_globals.get("__name__") == "lm_eval.api.task"]
    return next((PARTS[name] for name in reversed(names) if name in PARTS), None)


def _item(frames: list[FrameType]) -> str:
    items = [frame.f_locals.get("doc_id") for frame in frames]
    found = next((item for item in items if isinstance(item, int)), None)
    return "" if found is None else f", item {found}"


def _reason(error: Exception) -> str:
    if isinstance(error, StopIteration) or "out of bounds for size 0" in str(error):
        return "there are no items."
    if isinstance(error, KeyError) and error.args == (None,):
        return "a metric has no aggregation; name one in metric_list (aggregation: mean)."
    if isinstance(error, KeyError) and len(str(error)) < 80:
        return f"there is no {error}; it may be the name of a split, a column or a metric."
    if "larger than population" in str(error):
        return "there are fewer examples than num_fewshot asks for."
    return told(error)
