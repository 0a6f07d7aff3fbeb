"""What a suite says of a task: its name, its prompt, the metric that counts, the seeds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from bench.section import Section

Seed = Annotated[int, Field(ge=0, lt=2**32)]


def number_or_share(limit: float) -> float:
    """A share as it is; a number of items as a whole one.

    Raises:
        ValueError: it is neither.
    """
    if limit < 1:
        return limit
    if not limit.is_integer():
        raise ValueError("should be a whole number of items, or a share of them under 1")
    return int(limit)


Limit = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(number_or_share)]
Seeds = tuple[Seed | None, Seed | None, Seed | None, Seed | None]
SEEDS: Seeds = (0, 1234, 1234, 1234)  # lm-eval's defaults


class PromptSpec(Section):
    """How a task's prompt is put to a model, as lm_eval's options of the same names."""

    apply_chat_template: bool | Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="put prompts into the tokenizer's chat template; a text: into that of this name; "
        "null: what the suite says of all tasks, or no",
    )
    fewshot_as_multiturn: bool | None = Field(
        None,
        description="examples as turns of a conversation, not as one text; null: what the suite says, "
        "or yes where there is a chat template",
    )
    system_instruction: str | None = Field(
        None, description="text before every prompt; null: what the suite says, or none"
    )


class TaskSpec(PromptSpec):
    """A task, group or tag of lm-eval, or a pattern; a bare string means its name."""

    task: str = Field(
        min_length=1, description="name of an lm-eval task, group or tag, or a pattern: mmlu_*"
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="examples in the prompt; null: the task's own"
    )
    metric: str | None = Field(
        None, description="the metric that counts; null: acc_norm, acc or exact_match, the first it has"
    )
    average: bool = Field(True, description="whether it counts in the average")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"task": value} if isinstance(value, str) else value
