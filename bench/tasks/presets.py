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

PRESETS: dict[str, list[dict[str, Any]]] = {"paper": PAPER}
