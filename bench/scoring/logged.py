"""lm-eval's log of the samples of a task → what is asked, kept once, and what each model answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval.loggers.utils import add_tokenizer_info
from lm_eval.utils import handle_non_serializable, hash_string, sanitize_list

from bench.transcripts import Questions, packed

ASKED = ("doc_id", "doc", "target", "arguments", "doc_hash", "prompt_hash", "target_hash")
HASHES = ("doc_hash", "prompt_hash", "target_hash")


def questions(task: str, output: dict[str, Any], folder: Path) -> Questions:
    """What a task asks, in the form of lm-eval's files of samples.

    Args:
        output: of lm-eval's ``evaluate``, samples included.
        folder: of the task's file; paths in the task's settings are kept relative to it.
    """
    samples = output["samples"][task]
    header = {
        "task": task,
        "version": output["versions"].get(task),
        "original": output["n-samples"][task]["original"],
        "task_hash": hash_string("".join(sample[key] for sample in samples for key in HASHES)),
        "config": _relative(output["configs"][task], f"{folder}/"),
    }
    asked = {sample["doc_id"]: sample for sample in reversed(samples)}  # alike for all filters
    entries = [_asked(asked[doc]) for doc in dict.fromkeys(sample["doc_id"] for sample in samples)]
    return Questions.of(task, packed(header, entries, handle_non_serializable))


def responses(task: str, output: dict[str, Any], asked: Questions, model: Any, bootstraps: int) -> bytes:
    """What a model answered, with lm-eval's description of its tokenizer."""
    tokenizer: dict[str, Any] = {}
    add_tokenizer_info(tokenizer, model)
    header = {"questions": asked.name, "bootstrap_iters": bootstraps, "tokenizer": tokenizer}
    entries = [
        {"doc_id": sample["doc_id"]}
        | {key: value for key, value in sample.items() if key not in ASKED}
        | {key: sanitize_list(sample[key]) for key in ("resps", "filtered_resps")}
        for sample in output["samples"][task]
    ]
    return packed(header, entries, handle_non_serializable)


def _asked(sample: dict[str, Any]) -> dict[str, Any]:
    """The part of a sample that no model changes, as lm-eval's tracker writes it."""
    arguments = {
        f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(request)}
        for i, request in enumerate(sample["arguments"])
    }
    whole = sample | {"arguments": arguments, "target": str(sample["target"])}
    return {key: whole[key] for key in ASKED}


def _relative(value: Any, folder: str) -> Any:
    """Settings without the path of the folder that they were read in."""
    if isinstance(value, dict):
        return {key: _relative(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_relative(item, folder) for item in value]
    return value.removeprefix(folder) if isinstance(value, str) else value
