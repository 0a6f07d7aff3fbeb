"""Named lists of tasks."""

from __future__ import annotations

from typing import Any

# Metrics and few-shot counts of the published tables (arXiv 2505.02819, appendix A.1 and its model
# cards). Avg-acc is the mean of the first six.
PAPER: list[dict[str, Any]] = [
    {"task": "race", "metric": "acc"},
    {"task": "winogrande", "num_fewshot": 5, "metric": "acc"},
    {"task": "piqa", "metric": "acc_norm"},
    {"task": "boolq", "metric": "acc"},
    {"task": "openbookqa", "metric": "acc_norm"},
    {"task": "sciq", "metric": "acc_norm"},
    {"task": "lambada_openai", "metric": "acc", "average": False},
]

# What accuracy on choices does not show: sums in words, instructions followed, programs.
GENERATIVE: list[dict[str, Any]] = [
    {"task": "gsm8k", "num_fewshot": 8, "metric": "exact_match,strict-match", "average": False},
    {"task": "ifeval", "metric": "prompt_level_strict_acc", "average": False},
    {"task": "humaneval", "average": False},
]

PRESETS: dict[str, list[dict[str, Any]]] = {"paper": PAPER, "generative": GENERATIVE}


def replace_presets(tasks: list[Any]) -> list[Any]:
    """Put the tasks of presets in their place; what else a mapping that names one says is of each."""
    replaced: list[Any] = []
    for task in tasks:
        said = task if isinstance(task, dict) else {"task": task}
        name = said.get("task")
        if isinstance(name, str) and name in PRESETS:
            own = {key: value for key, value in said.items() if key != "task"}
            replaced += [entry | own for entry in PRESETS[name]]
        else:
            replaced.append(task)
    return replaced
