"""What was measured. Unknown is null, never 0."""

from collections.abc import Sequence
from itertools import chain
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from bench.serving.spec import Workload


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Distribution(_Result):
    """Raw values and their percentiles, interpolated linearly between neighbours."""

    values: list[float] = Field(min_length=1, description="Every raw value, in the order measured.")
    p50: float = Field(description="Median of the values.")
    p90: float = Field(description="90th percentile of the values.")
    p99: float = Field(description="99th percentile of the values.")

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarise `values` (not empty, any unit)."""
        import numpy as np

        p50, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
        return cls(values=list(values), p50=p50, p90=p90, p99=p99)


class Neighbours(_Result):
    """What else used the engine's cores and GPUs, one value for each timed run; null: unknown."""

    other_cpu_share: list[float] | None = Field(
        description="CPU time of other processes, and what other virtual machines took, as a share of "
        "the time of all cores that the engine may use; near 0 of either sign: the kernel counts in "
        "ticks of 10 ms."
    )
    own_cpu_share: list[float] | None = Field(
        description="CPU time of the engine's own processes, likewise."
    )
    load_average: list[float] | None = Field(
        description="The machine's mean number of running and waiting threads in the minute before the "
        "run's end, the engine's own among them."
    )
    other_gpu_processes: list[int] | None = Field(
        description="Other processes that compute on the engine's GPUs, at the run's end; null on a CPU."
    )
    sm_clock_mhz: list[int] | None = Field(
        description="Lowest clock of the engine's GPUs in MHz, at the run's end; null on a CPU."
    )

    @classmethod
    def pooled(cls, parts: Sequence[Self]) -> Self:
        """The timed runs of several engine processes; unknown where one of them does not know."""
        each = {name: [getattr(part, name) for part in parts] for name in cls.model_fields}
        known = {name: None if None in values else values for name, values in each.items()}
        return cls(**{name: values and [*chain(*values)] for name, values in known.items()})


class WorkloadResult(_Result):
    """Times of one workload's timed runs."""

    workload: Workload = Field(description="The load.")
    latency_seconds: Distribution = Field(
        description="Seconds from submitting a batch to its last token; one value per timed run."
    )
    ttft_seconds: Distribution = Field(
        description="Seconds from submitting the batch to a request's first token, waiting for the "
        "rest of the batch included; one value per request, run after run."
    )
    tpot_seconds: Distribution = Field(
        description="Seconds per token after the first, (last − first token time) / (tokens − 1); "
        "one value per request, run after run."
    )
    output_tokens_per_second: float = Field(
        description="Generated tokens of all timed runs per second of their latencies."
    )
    requests_per_second: float = Field(
        description="Requests of all timed runs per second of their latencies."
    )
    neighbours: Neighbours | None = Field(
        None, description="What else used the engine's cores and GPUs; null: not recorded."
    )

    @classmethod
    def pooled(cls, results: Sequence[Self]) -> Self:
        """The timed runs of several engine processes under the same load as those of one."""
        load = results[0].workload
        latency = _pooled([result.latency_seconds for result in results])
        batches = len(latency.values) / sum(latency.values)
        beside = [result.neighbours for result in results if result.neighbours]
        return cls(
            workload=load,
            latency_seconds=latency,
            ttft_seconds=_pooled([result.ttft_seconds for result in results]),
            tpot_seconds=_pooled([result.tpot_seconds for result in results]),
            output_tokens_per_second=batches * load.batch_size * load.output_len,
            requests_per_second=batches * load.batch_size,
            neighbours=Neighbours.pooled(beside) if len(beside) == len(results) else None,
        )


def _pooled(parts: Sequence[Distribution]) -> Distribution:
    return Distribution.of([*chain.from_iterable(part.values for part in parts)])


class Memory(_Result):
    """Memory the engine holds, over all its devices."""

    weights_bytes: int | None = Field(
        description="Bytes of the model's parameters as the engine loaded them, before its kernels "
        "repack them: tied weights once, the vocabulary padded to a multiple of 64 rows."
    )
    kv_bytes_per_token: int | None = Field(
        description="Bytes of KV cache one more token of context takes, over all attention layers."
    )
    kv_capacity_tokens: int | None = Field(
        description="Tokens the KV pool holds in sequences of max_model_len tokens, as the engine "
        "reports it; a sequence takes whole blocks."
    )
    kv_pool_bytes: int | None = Field(description="Bytes of the tensors the KV cache lies in.")
    peak_process_memory_bytes: int | None = Field(
        description="Peak resident bytes of the engine's worker processes, libraries included; on a "
        "CPU also weights and KV pool."
    )
    peak_device_memory_bytes: int | None = Field(
        description="Peak bytes torch allocated on the GPUs since the engine's start; null on a CPU."
    )


class EngineSettings(_Result):
    """The settings the engine reports it runs with."""

    max_model_len: int = Field(description="Longest sequence, in tokens.")
    max_num_seqs: int = Field(description="Most sequences of one step.")
    max_num_batched_tokens: int = Field(description="Most tokens of one step.")
    block_size: int = Field(description="Tokens of one KV cache block.")
    kv_cache_dtype: str = Field(description="Type of the KV cache; auto: the model's.")
    enable_prefix_caching: bool = Field(description="Whether KV blocks of earlier prompts are reused.")
    enable_chunked_prefill: bool = Field(description="Whether a long prompt may be split over steps.")
    enforce_eager: bool = Field(description="Whether compilation and CUDA graphs are off.")
    compilation_mode: str = Field(description="The engine's name for how it compiles the model.")
    tensor_parallel_size: int = Field(description="Devices the weights are split over.")


class ServingResult(_Result):
    """One measurement: an engine process, its memory and the times of every workload."""

    engine: str = Field(description="The inference engine.")
    engine_version: str = Field(description="The engine's version.")
    device: str = Field(description="CPU model and its physical cores, or GPU name.")
    dtype: str = Field(description="Type of weights and activations.")
    threads: int | None = Field(description="CPU threads of the engine's computations; null on a GPU.")
    start_seconds: float = Field(
        description="Seconds to construct the engine: weights, KV pool, compilation; not the imports."
    )
    engine_settings: EngineSettings = Field(description="What the engine reports it runs with.")
    memory: Memory = Field(description="Memory the engine holds.")
    weights: Literal["engine", "swap"] | None = Field(
        None,
        description="engine: it was started on this checkpoint; swap: the weights were put into it; "
        "null: not recorded.",
    )
    workloads: list[WorkloadResult] = Field(description="Times, one entry per workload, in order.")
    replay_cached_tokens: int = Field(
        description="Tokens of a prompt sent a second time that the engine took from a prefix cache; "
        "0 shows that the cache is off."
    )

    @classmethod
    def pooled(cls, results: Sequence[Self]) -> Self:
        """Several engine processes as one: all timed runs, the first one's memory and settings."""
        first = results[0]
        if len(results) == 1:
            return first
        loads = zip(*(result.workloads for result in results), strict=True)
        return first.model_copy(update={"workloads": [WorkloadResult.pooled(same) for same in loads]})
