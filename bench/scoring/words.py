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
        if reason := _missing(error):
            raise InputError(reason) from error
        if (part := _part(frames)) is None:
            raise
        reason = _choices(frames) or _reason(error)
        raise InputError(f"lm-eval fails at {part}{_item(frames)}: {reason}") from error


def _missing(error: Exception) -> str | None:
    """What a task needs that is not there, or not allowed."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"the task needs the Python package {package!r}, which is not installed (pip install)."
    if isinstance(error, ImportError):
        return f"the task needs what is not installed: {told(error)}"
    if "Couldn't find a module script" in str(error):
        return "the task needs a metric of the hub, which is neither on this machine nor reachable."
    if "HF_ALLOW_CODE_EVAL" in str(error):
        return (
            "the task runs code that the model writes; set HF_ALLOW_CODE_EVAL=1 in the environment, and "
            "only where that code can do no harm."
        )
    return None


def _choices(frames: list[FrameType]) -> str | None:
    """What is wrong with the choices of the first item, which lm-eval looks at."""
    (choices, *_) = [*(f.f_locals["test_choice"] for f in frames if "test_choice" in f.f_locals), None]
    if not isinstance(choices, list):
        return None
    if not choices:
        return "doc_to_choice gives no choices."
    if others := [choice for choice in choices if not isinstance(choice, str)]:
        return f"doc_to_choice gives {others[0]!r}, which is no text; write choices in quotes."
    return "doc_to_choice gives an empty text as a choice." if "" in choices else None


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
