"""``evaluate_model``: the published command, as a run of the harness."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, ConfigDict, Field, field_validator

from bench.exits import EXIT_FAILED
from bench.verbs.suite_options import RETRY_FAILED, Limit
from replaceme.compat.commands import CONFIG, command, find, say, told_in_a_sentence
from replaceme.compat.config import SeedConfig, few_shots
from replaceme.errors import InputError
from replaceme.io import yaml_file, yaml_source


class Evaluation(BaseModel):
    """What a file says about scoring; it may be one of the commands that prune."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_path: str = Field(description="hub id, folder, GGUF file, or package:NAME/FILE.gguf")
    tasks: dict[str, int | None] | None = Field(
        None, description="task → fewshots; default or null: the paper's tasks"
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _few_shots(cls, tasks: Any) -> Any:
        return few_shots(tasks)

    def suite(self, include_path: tuple[str, ...]) -> dict[str, Any]:
        """The same as a suite, in bfloat16 as the published code scores."""
        listed = [{"task": name, "num_fewshot": shots} for name, shots in (self.tasks or {}).items()]
        return {
            "name": "evaluation",
            "models": [{"id": self.model_path, "dtype": "bfloat16"}],
            "prune": {"layers": [1], "solvers": ["uidl"]},
            "score": {
                "tasks": listed or ["paper"],
                "include_path": list(include_path),
                "dtype": "bfloat16",
            },
        }


def read(file: Path, model: str | None) -> Evaluation:
    """What to score; ``model`` takes the place of the file's.

    Raises:
        InputError: with the place of what is wrong.
    """
    repeated: list[str] = []
    source = yaml_file.read(file, repeated)
    for sentence in repeated:
        say(sentence)
    of_pruning = SeedConfig.model_fields.keys() - Evaluation.model_fields.keys()
    kept = {key: entry for key, entry in source.value.items() if key not in of_pruning}
    overrides = {"model_path": model} if model else {}
    return yaml_source.validate(replace(source, value=kept), Evaluation, overrides)


@command
@CONFIG
@click.option("--model", help="Model to score, instead of the file's model_path.")
@click.option("--include-path", multiple=True, help="Folder with lm-eval task YAMLs.")
@RETRY_FAILED
@click.option("--limit", type=Limit(), help="Items of each task at most, or a share of them.")
def evaluate_model(
    file: Path,
    model: str | None,
    include_path: tuple[str, ...],
    retry_failed: bool,
    limit: float | None,
) -> None:
    """Score a model on the tasks of a published YAML, or on the paper's; the same command resumes.

    Records and tables are written to benchmark_results/NAME.
    """
    from bench.run.resume import Retry
    from bench.suite import matrix
    from bench.suite.suite import Suite
    from bench.verbs.run import run_plan

    with told_in_a_sentence():
        evaluation = read(find(file), model)
        try:
            suite = Suite.model_validate(evaluation.suite(include_path)).limited(limit)
        except ValueError as error:
            raise InputError(f"{file}: {error}") from None
        plan = matrix.expand(suite, ("*/baseline",))
        out = Path("benchmark_results") / Path(evaluation.model_path).name
        failed = run_plan(plan, out, Retry(failed=retry_failed))
    sys.exit(EXIT_FAILED if failed else 0)
