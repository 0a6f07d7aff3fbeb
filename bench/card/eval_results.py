"""A record → the files of ``.eval_results/``, from which the hub fills a benchmark's leaderboard.

Their form: https://huggingface.co/docs/hub/eval-results. A benchmark names its tasks itself, in its
repository; as a rule after the configurations of the data set, whose name is what is known here.
"""

from __future__ import annotations

import yaml

from bench.card.tables import LM_EVAL, describe_limit
from bench.records import Record, Task
from bench.render.escape import visible
from replaceme.io.models import is_hub_id

FOLDER = ".eval_results"


def files(record: Record) -> tuple[dict[str, str], list[str]]:
    """File name → YAML, one file for each data set, and the tasks that name no data set of the hub."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    from bench.tasks.catalog import dataset_of

    entries: dict[str, list[EvalResultEntry]] = {}
    others = []
    for name, task in record.quality.items():
        data = dataset_of(name, task.identity.data)
        path, value = data.get("path", ""), task.metrics[task.primary].value
        if "/" not in path or not is_hub_id(path):
            others.append(name)
        elif value is not None:
            entry = EvalResultEntry(
                dataset_id=path,
                task_id=data.get("config", "default"),
                value=value,
                date=record.updated,
                source_url=LM_EVAL,
                source_name="lm-evaluation-harness",
                notes=_notes(record, name, task),
            )
            entries.setdefault(f"{path.replace('/', '__')}.yaml", []).append(entry)
    texts = {
        file: yaml.safe_dump(eval_result_entries_to_yaml(found), sort_keys=False, allow_unicode=True)
        for file, found in entries.items()
    }
    return texts, others


def _notes(record: Record, name: str, task: Task) -> str:
    version = record.environment.get("packages", {}).get("lm_eval")
    parts = [
        f"{task.primary} of {name}",
        f"{task.num_fewshot}-shot",
        *([f"first {describe_limit(limit)}"] if (limit := task.identity.limit) else []),
        f"lm-eval {version}" if version else "lm-eval",
    ]
    return visible(", ".join(parts))
