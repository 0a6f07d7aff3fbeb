"""A record → a model card in the hub's format (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import yaml

from bench.card.settings import dataset, heal_settings, hub_dataset, plain_name, settings
from bench.card.tables import LM_EVAL, describe_limit, quality, serving
from bench.records import Prune, Record
from bench.render.escape import markdown, visible
from replaceme.io.auto import TEXT, AutoClass
from replaceme.io.models import is_hub_id
from replaceme.provenance import code, fit_table, how_healed, how_pruned

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

PAPER = "https://arxiv.org/abs/2505.02819"
TAGS = ["pruned", "depth-pruning", "replaceme"]
PIPELINES: dict[AutoClass, str] = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForImageTextToText": "image-text-to-text",
    "AutoModelForMultimodalLM": "any-to-any",
}
CITATION = """```bibtex
@article{shopkhoev2025replaceme,
  title   = {ReplaceMe: Network Simplification via Depth Pruning and Transformer Block Linearization},
  author  = {Shopkhoev, Dmitriy and Ali, Ammar and Zhussip, Magauiya and Malykh, Valentin and
             Lefkimmiatis, Stamatios and Komodakis, Nikos and Zagoruyko, Sergey},
  journal = {arXiv preprint arXiv:2505.02819},
  year    = {2025}
}
```"""


def render(record: Record, prune: Prune, baseline: Record | None) -> str:
    """The card of a pruned cell.

    Args:
        prune: of the record.
        baseline: of the same model; ``None`` leaves comparisons out.
    """
    parts = [
        f"# {markdown(record.model)} with {record.layers} decoder layers less",
        _made(record, prune),
        *quality(record, baseline),
        *serving(record, baseline),
        _use(record),
        _repeat(record),
        _limits(record, prune),
        f"## Citation\n\nPruning with a fitted transform is from [ReplaceMe]({PAPER}):\n\n{CITATION}",
    ]
    return f"---\n{front_matter(record)}---\n\n" + "\n\n".join(parts) + "\n"


def front_matter(record: Record) -> str:
    """The metadata that the hub reads, as YAML; what is not known is left out."""
    from huggingface_hub import ModelCardData

    data = hub_dataset(record)
    card = ModelCardData(
        base_model=record.model_id if is_hub_id(record.model_id) else None,
        datasets=[data[0]] if data else None,
        eval_results=list(_results(record)) or None,
        library_name="transformers",
        model_name=visible(f"{record.model}-{record.layers}-{record.label}"),
        pipeline_tag=PIPELINES[_class_of(record)],
        tags=TAGS,
    )
    return f"{card.to_yaml()}\n"


def _results(record: Record) -> Iterator[EvalResult]:
    """Every metric of every task; the one that counts first."""
    from huggingface_hub import EvalResult

    from bench.tasks.catalog import dataset_of

    for name, task in record.scores.items():
        data = dataset_of(name, task.identity.data)
        shots = "" if task.num_fewshot is None else f" ({task.num_fewshot}-shot)"
        metrics = sorted(task.metrics, key=lambda metric: metric != task.primary)
        for metric in metrics:
            if (value := task.metrics[metric].value) is None:
                continue
            yield EvalResult(
                task_type="text-generation",
                dataset_type=visible(data.get("path") or name),
                dataset_name=visible(name),
                dataset_config=data.get("config"),
                dataset_split=data.get("split"),
                dataset_args=None if task.num_fewshot is None else {"num_few_shot": task.num_fewshot},
                metric_type=visible(metric),
                metric_name=visible(f"{metric}{shots}"),
                metric_value=value,
                source_name="lm-evaluation-harness",
                source_url=LM_EVAL,
            )


def _made(record: Record, prune: Prune) -> str:
    step = record.identity.prune
    assert step
    data = dataset(record)
    solver = step.solver.model_dump()
    lines = [how_pruned(prune.blocks, solver, data, prune.calibration_tokens), ""]
    if step.selector:
        chosen = f"The layers were chosen by the selector {code(step.selector)}"
        if prune.runner_up:
            second = ", ".join(f"[{start}, {end})" for start, end in prune.runner_up)
            chosen += f"; the second best choice was {second}"
        lines += [f"{chosen}.", ""]
    lines += fit_table(prune.intact_loss, prune.loss, prune.relative_error, prune.mean_cosine)
    lines += [how_healed(record.heal)] if record.heal else []
    return "## How it was made\n\n" + "\n".join(lines).rstrip()


def _repeat(record: Record) -> str:
    text = yaml.safe_dump(settings(record), sort_keys=False, allow_unicode=True, width=10_000)
    version = record.environment.get("packages", {}).get("replaceme")
    release = f" (release {code(str(version))})" if version else ""
    parts = [
        "## How to repeat it",
        f"`replaceme-bench prune --config card.yaml`{release}, where `card.yaml` is",
        f"```yaml\n{text}```",
    ]
    if healing := heal_settings(record):
        text = yaml.safe_dump(healing, sort_keys=False, allow_unicode=True, width=10_000)
        parts.append("then `replaceme-bench heal --config heal.yaml`, where `heal.yaml` is")
        parts.append(f"```yaml\n{text}```")
    return "\n\n".join(parts)


def _class_of(record: Record) -> AutoClass:
    """What loads the checkpoint; older releases pruned what reads text alone."""
    return (record.prune.loaded_with if record.prune else None) or TEXT


def _use(record: Record) -> str:
    folder = f"{plain_name(record)}-{record.layers}-layers-less"
    model = _class_of(record)
    reader = "AutoTokenizer" if model == TEXT else "AutoProcessor"
    return (
        f"## Use\n\n```python\nfrom transformers import {model}, {reader}\n\n"
        f'folder = "{folder}"  # or the id of this repository\n'
        f'model = {model}.from_pretrained(folder, dtype="auto")\n'
        f"{reader.removeprefix('Auto').lower()} = {reader}.from_pretrained(folder)\n```\n\n"
        f"or `vllm serve {folder}`. It is an ordinary checkpoint; no code of ours is needed."
    )


def _limits(record: Record, prune: Prune) -> str:
    trained = "Nothing" if record.heal else "Nothing was trained after the removal, and nothing"
    lines = [f"{trained} was measured but what stands above: try the model on what it is for."]
    if prune.warning:
        lines.insert(0, f"**The fit is not to be trusted:** {markdown(prune.warning)}.")
    if limits := sorted({task.identity.limit or 0 for task in record.quality.values()} - {0}):
        lines.append(f"Tasks were cut to their first {describe_limit(limits[-1])}.")
    lines += [
        f"Not measured: {markdown(failure.stage)}, for {markdown(failure.error)}"
        for failure in record.failures
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)
