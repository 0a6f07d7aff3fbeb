"""Records → the files that ``lm_eval --output_path --log_samples`` writes, one folder per cell.

``FOLDER/MODEL/results_DATE.json`` and ``FOLDER/MODEL/samples_TASK_DATE.jsonl``, with lm-eval's keys.
What is not known is null or left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import transcripts
from bench.records import Group, Record, Task
from bench.render.escape import visible
from bench.results import Results
from replaceme.errors import InputError
from replaceme.io.files import write_atomically

SEPARATORS = re.compile(r"[\"<>:/|\\?*\[\]]+")  # that lm-eval keeps out of names of files
LONGEST = 180  # bytes of a name in the name of a file, which has 255
SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
ORDER = (
    "doc_id",
    "doc",
    "target",
    "arguments",
    "resps",
    "filtered_resps",
    "filter",
    "metrics",
    "doc_hash",
    "prompt_hash",
    "target_hash",
)


def write(results: Iterable[Results], folder: Path) -> list[str]:
    """Write the files of all cells that were scored; returns remarks about what is missing.

    Raises:
        InputError: two cells have the same name, or what they answered is damaged.
        OutputError: a file cannot be written.
    """
    cells = [(found, stem) for found in results for stem in found.cells.values()]
    scored = [(found, stem) for found, stem in cells if found.records[stem].quality]
    if not scored:
        raise InputError("none of these cells has a score; lm-eval's files hold nothing else.")
    names: dict[str, str] = {}
    for found, stem in scored:
        name, where = file_name(model_name(found.records[stem])), found.source
        if name in names:
            raise InputError(f"{name} is in {names[name]} and in {where}; give one of them at a time.")
        names[name] = where
    without = [not _write_cell(found, stem, folder) for found, stem in scored]
    remarks = []
    if left := len(cells) - len(scored):
        remarks.append(f"{left} of {len(cells)} cells have no score, and no files.")
    if count := sum(without):
        remarks.append(
            f"{count} of {len(scored)} cells were scored without keeping what was asked and answered; "
            f"they have no samples_*.jsonl of it, and no settings of their tasks."
        )
    return remarks


def model_name(record: Record) -> str:
    """What a cell's model is called: MODEL, or MODEL-N-LABEL for a pruned one."""
    changed = f"-{record.layers}-{record.label}" if record.layers else ""
    return visible(f"{record.model}{changed}")


def file_name(name: str) -> str:
    """A name as lm-eval has it in paths; a long one is cut, and one of dots would be another folder."""
    name = SEPARATORS.sub("__", name)
    if len(whole := name.encode()) > LONGEST:
        name = f"{whole[:LONGEST].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:8]}"
    return name if name.strip(".") else f"_{name}"


def _write_cell(results: Results, stem: str, folder: Path) -> bool:
    """Write a cell's files; returns whether there are samples of all its tasks."""
    record = results.records[stem]
    place = folder / file_name(model_name(record))
    date = _date(record)
    name = date.isoformat(timespec="microseconds").removesuffix("+00:00").replace(":", "-")
    headers: dict[str, dict[str, Any]] = {}
    for task in record.quality:
        if (kept := transcripts.read(results.folder, stem, task)) is None:
            continue
        headers[task], entries = kept
        content = b"".join(_lines(entries))
        write_atomically(place / f"samples_{file_name(visible(task))}_{name}.jsonl", content)
    text = json.dumps(_aggregated(record, headers, date), indent=2, ensure_ascii=False)
    write_atomically(place / f"results_{name}.json", text.encode("utf-8", "backslashreplace"))
    return headers.keys() == record.quality.keys()


def _lines(entries: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for entry in entries:
        ordered = {key: entry[key] for key in ORDER if key in entry} | entry
        text = json.dumps(ordered, ensure_ascii=False) + "\n"
        yield text.encode("utf-8", "backslashreplace")  # half a surrogate pair is escaped, as in JSON


def _date(record: Record) -> datetime:
    try:
        found = datetime.fromisoformat(record.updated or "")
    except ValueError:
        found = datetime.fromtimestamp(0, UTC)
    return found.astimezone(UTC)


def _aggregated(record: Record, headers: dict[str, dict[str, Any]], date: datetime) -> dict[str, Any]:
    """The content of results_DATE.json."""
    quality, packages = record.quality, record.environment.get("packages", {})
    groups: dict[str, Group] = record.groups
    scored: dict[str, Task | Group] = {**quality, **groups}
    name, prompt = model_name(record), _shared(record, "prompt") or {}
    instruction = prompt.get("system_instruction")
    tokenizer: dict[str, Any] = next((found["tokenizer"] for found in headers.values()), {})
    return {
        "results": {name: _metrics(name, found, headers) for name, found in scored.items()},
        **({"groups": {n: _metrics(n, group, {}) for n, group in groups.items()}} if groups else {}),
        "group_subtasks": {name: group.members for name, group in groups.items()},
        "configs": {task: _config(task, quality[task], headers) for task in sorted(quality)},
        "versions": {
            name: headers.get(name, {}).get("version", scored[name].version) for name in sorted(scored)
        },
        "n-shot": {
            name: scored[name].num_fewshot
            for name in sorted(scored)
            if scored[name].num_fewshot is not None
        },
        "higher_is_better": {
            name: {
                metric.partition(",")[0]: found.higher_is_better
                for metric, found in scored[name].metrics.items()
            }
            for name in sorted(scored)
        },
        "n-samples": {
            task: {"original": headers.get(task, {}).get("original"), "effective": found.items}
            for task, found in quality.items()
        },
        "config": _settings(record, headers),
        "git_hash": record.environment.get("commit"),
        "date": date.timestamp() if record.updated else None,
        "transformers_version": packages.get("transformers"),
        "lm_eval_version": packages.get("lm_eval"),
        "upper_git_hash": None,
        **tokenizer,
        "task_hashes": {task: found["task_hash"] for task, found in headers.items()},
        "model_source": "hf",
        "model_name": name,
        "model_name_sanitized": file_name(name),
        "system_instruction": instruction,
        "system_instruction_sha": hashlib.sha256(instruction.encode()).hexdigest()
        if instruction
        else None,
        "fewshot_as_multiturn": prompt.get("fewshot_as_multiturn"),
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": None,
    }


def _metrics(task: str, found: Task | Group, headers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    alias = headers.get(task, {}).get("config", {}).get("task_alias", task)
    metrics: dict[str, Any] = {"name": task, "alias": alias, "sample_len": found.items}
    for label, metric in found.metrics.items():
        name, _, chain = label.partition(",")
        metrics[f"{name},{chain or 'none'}"] = metric.value
        metrics[f"{name}_stderr,{chain or 'none'}"] = "N/A" if metric.stderr is None else metric.stderr
    return metrics


def _config(task: str, found: Task, headers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """lm-eval's settings of a task where they were kept."""
    known = {"task": task, "num_fewshot": found.num_fewshot}
    return dict(headers.get(task, {}).get("config", known))


def _settings(record: Record, headers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How the cell was scored."""
    tasks = [*record.quality.values()]
    dtypes = {task.dtype for task in tasks}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    dtype = dtype or (record.prune.dtype if record.prune else None)
    bootstraps = {found.get("bootstrap_iters") for found in headers.values()}
    return {
        "model": "hf",
        "model_args": {"pretrained": model_name(record)} | ({"dtype": dtype} if dtype else {}),
        "model_num_parameters": record.prune.parameters if record.prune else None,
        "model_dtype": f"torch.{dtype}" if dtype else None,
        "model_revision": None,
        "model_sha": None,
        "batch_size": record.runtime.get("score_batch_size"),
        "batch_sizes": [],
        "device": record.runtime.get("device"),
        "use_cache": None,
        "limit": _shared(record, "limit"),
        "bootstrap_iters": bootstraps.pop() if len(bootstraps) == 1 else None,
        "gen_kwargs": {},
        **dict(zip(SEEDS, _shared(record, "seeds") or [None] * len(SEEDS), strict=False)),
    }


def _shared(record: Record, key: str) -> Any:
    """What the identities of all tasks say alike; ``None`` where they differ or are silent."""
    said = [getattr(task.identity, key) for task in record.quality.values()]
    return said[0] if all(found == said[0] for found in said) else None
