"""The ``executor`` section of a suite: where its work is done."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bench.section import Section
from replaceme.amounts import Size, parse_size


class ExecutorSpec(Section):
    """Who does the work; a bare string means its name."""

    name: Literal["local", "ray"] = Field(
        "local", description="local: this process; ray: workers of a Ray cluster, or on this machine"
    )
    address: str | None = Field(
        None,
        description="of the Ray cluster, or 'auto' on one of its machines; null: this machine alone",
    )
    workers: int | None = Field(
        None, gt=0, description="how many; null: one for each GPU, without GPUs one for each machine"
    )
    cpus: int | None = Field(
        None, gt=0, description="of each worker; null: what the workers of a machine have among them"
    )
    gpus: float | None = Field(None, ge=0, description="of each worker; null: one, where there are GPUs")
    memory: Size | None = Field(
        None,
        description="main memory of each worker, such as 20GiB; null: what the largest model takes, "
        "where device is cpu or gpus 0",
    )

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _of_ray(self) -> Self:
        said = [
            key for key in sorted(self.model_fields_set - {"name"}) if getattr(self, key) is not None
        ]
        if self.name == "local" and said:
            raise ValueError(f"{said[0]} is said of an executor that has none; name: ray has")
        return self

    @property
    def memory_bytes(self) -> int | None:
        return parse_size(self.memory) if self.memory else None
