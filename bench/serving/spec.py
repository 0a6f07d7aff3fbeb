"""What to measure: workloads and engine settings, as a suite's `serve:` section holds them."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from replaceme.recipe import Part

# Every field of `ServeSettings` is in exactly one of these two sets.
IDENTITY_FIELDS = frozenset(
    {
        "engine",
        "workloads",
        "warmup",
        "repeats",
        "processes",
        "seed",
        "kv_cache_gib",
        "max_model_len",
        "max_batched_tokens",
        "dtype",
        "enforce_eager",
        "tensor_parallel_size",
        "cpu_threads",
    }
)
RUNTIME_FIELDS = frozenset({"per_checkpoint", "timeout"})


class ServingIdentity(Part):
    """What a measurement depends on: the shape of the model, the load, engine and device.

    Attributes:
        config: hash of the checkpoint's configuration.
        settings: of :class:`ServeSettings`, those that change what is measured.
        checkpoint: file stem of the cell, where every checkpoint is measured by itself.
    """

    config: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    engine_version: str | None = None
    device: str | None = None
    checkpoint: str | None = None


class Workload(BaseModel):
    """One load: a batch of prompts of the same length, and as many tokens generated for each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_len: int = Field(gt=0, description="Tokens in every prompt.")
    output_len: int = Field(
        ge=2, description="Tokens generated for every prompt; a time per token takes at least two."
    )
    batch_size: int = Field(gt=0, description="Prompts submitted together.")

    @property
    def label(self) -> str:
        """A short name, such as `in128-out64-b1`."""
        return f"in{self.input_len}-out{self.output_len}-b{self.batch_size}"

    @property
    def header(self) -> str:
        """What tables call it, such as `b1 128→64`."""
        return f"b{self.batch_size} {self.input_len}→{self.output_len}"

    @property
    def tokens(self) -> int:
        """Tokens in the KV cache when the whole batch has been generated."""
        return self.batch_size * (self.input_len + self.output_len)


class ServeSettings(BaseModel):
    """How to measure one checkpoint: the loads, and the engine they run on."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    engine: Literal["vllm"] = Field("vllm", description="The inference engine.")
    workloads: list[Workload] = Field(min_length=1, description="The loads, in measuring order.")
    warmup: int = Field(1, ge=0, description="Untimed runs of a workload before its timed runs.")
    repeats: int = Field(5, ge=1, description="Timed runs of every workload.")
    processes: int = Field(
        3,
        ge=1,
        description="Fresh engine processes that repeat the measurement; their spread is what tells a "
        "slower model from a noisy machine.",
    )
    seed: int = Field(0, ge=0, description="Seed of the random prompts.")
    kv_cache_gib: float = Field(
        1.0,
        gt=0,
        description="GiB of KV cache on each device; fixed, so that capacities compare.",
    )
    max_model_len: int | None = Field(
        None,
        gt=0,
        description="Longest sequence in tokens; null: that of the longest workload.",
    )
    max_batched_tokens: int | None = Field(
        None,
        gt=0,
        description="Most tokens of one engine step; null: the largest batch is prefilled in one.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Type of weights and activations; auto: the checkpoint's."
    )
    enforce_eager: bool = Field(
        False,
        description="Run without compilation and CUDA graphs: a faster start, slower steps.",
    )
    tensor_parallel_size: int = Field(1, ge=1, description="Devices the weights are split over.")
    cpu_threads: int | None = Field(
        None,
        gt=0,
        description="Threads of a CPU engine; null: one per physical core; unused on a GPU.",
    )
    per_checkpoint: bool = Field(
        False,
        description="Measure every checkpoint, not one of each configuration.",
    )
    timeout: float = Field(
        1800.0, gt=0, description="Seconds one engine process may take, its start included."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.workloads)) < len(self.workloads):
            raise ValueError("workloads lists the same workload twice")
        longest = max(self.workloads, key=lambda load: load.input_len + load.output_len)
        if self.context_len < longest.input_len + longest.output_len:
            raise ValueError(
                f"max_model_len is {self.max_model_len}, but workload {longest.label} needs "
                f"{longest.input_len + longest.output_len} tokens"
            )
        return self

    @property
    def context_len(self) -> int:
        """The longest sequence of the engine, in tokens."""
        return self.max_model_len or max(load.input_len + load.output_len for load in self.workloads)

    @property
    def batch_size(self) -> int:
        """The most sequences the engine runs at once."""
        return max(load.batch_size for load in self.workloads)

    @property
    def step_tokens(self) -> int:
        """The most tokens of one engine step."""
        prefill = max(load.batch_size * load.input_len for load in self.workloads)
        return self.max_batched_tokens or max(prefill, self.context_len, self.batch_size)

    @property
    def kv_cache_bytes(self) -> int:
        """Bytes of the KV cache on each device."""
        return int(self.kv_cache_gib * 2**30)

    def identity(self) -> dict[str, Any]:
        """The settings that change what is measured, as JSON values with defaults resolved."""
        resolved = {"max_model_len": self.context_len, "max_batched_tokens": self.step_tokens}
        return self.model_dump(mode="json", include=set(IDENTITY_FIELDS)) | resolved
