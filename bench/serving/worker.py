"""What a process does that measures an engine; see `bench.serving.forkserver`."""

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.serving.device import cpu_name, engine_version, physical_cores
from bench.serving.launch import WorkerSpec
from bench.serving.neighbours import Gpus, Watch
from bench.serving.result import Distribution, EngineSettings, Memory, ServingResult, WorkloadResult
from bench.serving.spec import ServeSettings, Workload

if TYPE_CHECKING:
    import numpy as np

Prompts = list[dict[str, list[int]]]


def import_engine() -> None:
    """Import what takes long, before workers are forked."""
    import vllm  # noqa: F401


def main(spec_file: Path, result_file: Path) -> None:
    """Measure what `spec_file` asks for and write a `ServingResult` to `result_file`."""
    spec = WorkerSpec.model_validate_json(spec_file.read_bytes())
    with result_file.open("w") as file:
        for result in run(spec.checkpoints, spec.settings):
            print(result.model_dump_json(), file=file, flush=True)


def prepare_environment(cpu_threads: int | None = None) -> None:
    """Set what vLLM and OpenMP read from the environment; before they are imported.

    Args:
        cpu_threads: of an engine on a CPU; ``None``: one per physical core.
    """
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    # One process for scheduler and model: a batch is then submitted whole before the first step.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for overriding in ("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_CI_ENV"):
        os.environ.pop(overriding, None)
    if "cpu" in (engine_version() or ""):
        os.environ["OMP_NUM_THREADS"] = str(cpu_threads or physical_cores())


def run(checkpoints: list[Path], settings: ServeSettings) -> Iterator[ServingResult]:
    """Start the engine on the first checkpoint, and measure every workload on each of them.

    Ends early where the engine refuses the weights of one. Raises ValueError when a workload does not
    fit the KV cache, and RuntimeError when the engine does not do as told.
    """
    from vllm import LLM

    started = time.monotonic()
    engine = LLM(model=str(checkpoints[0]), **_engine_arguments(settings))
    start_seconds = time.monotonic() - started
    on_cpu = engine.llm_engine.vllm_config.device_config.device_type == "cpu"
    gpus = None if on_cpu else _open_gpus(settings.tensor_parallel_size)
    meter = Meter(engine, settings, Watch(gpus))
    meter.check_capacity()
    for before, checkpoint in zip([None, *checkpoints], checkpoints, strict=False):
        if before and not _swap(engine, before, checkpoint):
            return
        times = [meter.measure(workload) for workload in settings.workloads]
        yield ServingResult(
            engine=settings.engine,
            engine_version=engine_version() or "",
            device=cpu_name() if on_cpu else _gpu_name(),
            dtype=str(engine.model_config.dtype).removeprefix("torch."),
            threads=_threads() if on_cpu else None,
            start_seconds=start_seconds,
            engine_settings=_settings_in_use(engine.llm_engine.vllm_config),
            workloads=times,
            replay_cached_tokens=meter.replay(),
            memory=meter.memory(),
            weights="swap" if before else "engine",
        )


def _swap(engine: Any, before: Path, after: Path) -> bool:
    """Put in the weights of another checkpoint; returns whether the engine took them."""
    try:
        engine.collective_rpc("swap", args=(str(before), str(after)))
    except Exception:  # of whatever kind: another engine can still do it
        traceback.print_exc()
        return False
    return True


class Meter:
    """Times workloads on a running engine."""

    def __init__(self, engine: Any, settings: ServeSettings, watch: Watch) -> None:
        self.engine, self.settings, self.watch = engine, settings, watch
        self.vocabulary = ordinary_tokens(engine)

    def check_capacity(self) -> None:
        """Refuse workloads whose batch would wait for KV cache."""
        capacity = self.engine.llm_engine.vllm_config.cache_config.kv_cache_size_tokens
        largest = max(self.settings.workloads, key=lambda load: load.tokens)
        if largest.tokens > capacity:
            raise ValueError(
                f"the KV cache of {self.settings.kv_cache_gib:g} GiB holds {capacity} tokens, but "
                f"workload {largest.label} needs {largest.tokens}: raise kv_cache_gib"
            )

    def measure(self, workload: Workload) -> WorkloadResult:
        """Warm up, then time `repeats` runs, each with prompts of its own."""
        for index in range(self.settings.warmup):
            self._run(workload, index)
        runs = [
            self._time(workload, index)
            for index in range(self.settings.warmup, self.settings.warmup + self.settings.repeats)
        ]
        latencies = [latency for latency, _, _ in runs]
        requests = workload.batch_size * len(runs)
        return WorkloadResult(
            workload=workload,
            latency_seconds=Distribution.of(latencies),
            ttft_seconds=Distribution.of([value for _, ttft, _ in runs for value in ttft]),
            tpot_seconds=Distribution.of([value for _, _, tpot in runs for value in tpot]),
            output_tokens_per_second=requests * workload.output_len / sum(latencies),
            requests_per_second=requests / sum(latencies),
            neighbours=self.watch.collect(),
        )

    def _time(self, workload: Workload, index: int) -> tuple[float, list[float], list[float]]:
        """A run that counts, with its neighbours watched."""
        self.watch.start_run()
        times = self._run(workload, index)
        self.watch.end_run()
        return times

    def _run(self, workload: Workload, index: int) -> tuple[float, list[float], list[float]]:
        """One batch: seconds until its end, and every request's TTFT and TPOT."""
        prompts = random_prompts(self.vocabulary, self.settings.seed, workload, index)
        submitted = time.monotonic()
        outputs = self._generate(prompts, workload.output_len)
        latency = time.monotonic() - submitted
        for output in outputs:
            _check_output(output, workload)
        metrics = [output.metrics for output in outputs]
        steps = workload.output_len - 1
        return (
            latency,
            [request.first_token_ts - submitted for request in metrics],
            [(request.last_token_ts - request.first_token_ts) / steps for request in metrics],
        )

    def replay(self) -> int:
        """Send a timed prompt again and return how many tokens came from a prefix cache."""
        longest = max(self.settings.workloads, key=lambda load: load.input_len)
        prompt = random_prompts(self.vocabulary, self.settings.seed, longest, self.settings.warmup)[:1]
        return int(self._generate(prompt, 1)[0].num_cached_tokens)

    def memory(self) -> Memory:
        """Memory of all the engine's workers together."""
        reports: list[dict[str, int | None]] = self.engine.collective_rpc("memory_report")
        total = {name: _sum([report[name] for report in reports]) for name in reports[0]}
        capacity = self.engine.llm_engine.vllm_config.cache_config.kv_cache_size_tokens
        return Memory(kv_capacity_tokens=capacity, **total)

    def _generate(self, prompts: Prompts, output_len: int) -> list[Any]:
        from vllm import SamplingParams

        sampling = SamplingParams(
            temperature=0, max_tokens=output_len, ignore_eos=True, detokenize=False
        )
        outputs: list[Any] = self.engine.generate(prompts, sampling, use_tqdm=False)
        return outputs


def ordinary_tokens(engine: Any) -> "np.ndarray":
    """Token ids a prompt may hold, sorted, shape (n,): no special or added ones."""
    import numpy as np

    tokenizer = engine.get_tokenizer()
    size = min(len(tokenizer), engine.model_config.get_vocab_size())
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return np.setdiff1d(np.arange(size), sorted(special))


def random_prompts(vocabulary: "np.ndarray", seed: int, workload: Workload, index: int) -> Prompts:
    """The prompts of a workload's run `index`, reproducible and unlike those of its other runs."""
    import numpy as np

    load = (workload.input_len, workload.output_len, workload.batch_size)
    generator = np.random.default_rng([seed, *load, index])
    tokens = generator.choice(vocabulary, size=(workload.batch_size, workload.input_len))
    return [{"prompt_token_ids": row} for row in tokens.tolist()]


def _engine_arguments(settings: ServeSettings) -> dict[str, Any]:
    from bench.serving.probe import LOAD_FORMAT

    return {
        "dtype": settings.dtype,
        "seed": settings.seed,
        "max_model_len": settings.context_len,
        "max_num_seqs": settings.batch_size,
        "max_num_batched_tokens": settings.step_tokens,
        "kv_cache_memory_bytes": settings.kv_cache_bytes,
        "enforce_eager": settings.enforce_eager,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "distributed_executor_backend": "mp" if settings.tensor_parallel_size > 1 else None,
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "load_format": LOAD_FORMAT,
        "worker_extension_cls": "bench.serving.probe.Probe",
    }


def _settings_in_use(config: Any) -> EngineSettings:
    cache, scheduler = config.cache_config, config.scheduler_config
    return EngineSettings(
        max_model_len=config.model_config.max_model_len,
        max_num_seqs=scheduler.max_num_seqs,
        max_num_batched_tokens=scheduler.max_num_batched_tokens,
        block_size=cache.block_size,
        kv_cache_dtype=str(cache.cache_dtype),
        enable_prefix_caching=cache.enable_prefix_caching,
        enable_chunked_prefill=scheduler.enable_chunked_prefill,
        enforce_eager=config.model_config.enforce_eager,
        compilation_mode=config.compilation_config.mode.name,
        tensor_parallel_size=config.parallel_config.tensor_parallel_size,
    )


def _check_output(output: Any, workload: Workload) -> None:
    generated = len(output.outputs[0].token_ids)
    if generated != workload.output_len:
        raise RuntimeError(f"workload {workload.label} got {generated} tokens back per prompt")
    if output.num_cached_tokens:
        raise RuntimeError(f"the prefix cache held {output.num_cached_tokens} tokens of a new prompt")
    if output.metrics.num_preemptions:
        raise RuntimeError(f"a request of {workload.label} was preempted: raise kv_cache_gib")


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name()


def _open_gpus(count: int) -> Gpus | None:
    """The first visible GPUs, which the engine uses; None where NVML knows none of their names, as of
    parts of a GPU."""
    import torch
    from vllm.third_party import pynvml

    uuids = [torch.cuda.get_device_properties(index).uuid for index in range(count)]
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        return Gpus(pynvml, [pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") for uuid in uuids])
    return None
