"""Latency and memory of a checkpoint in vLLM, measured in a process of its own."""

from bench.serving.device import device_name, engine_version
from bench.serving.launch import EngineMissingError, measure, prepare_workers
from bench.serving.noise import find_noise
from bench.serving.result import ServingResult, WorkloadResult
from bench.serving.spec import ServeSettings, ServingIdentity, Workload
from bench.serving.workers import ServingError, Workers

__all__ = [
    "EngineMissingError",
    "ServeSettings",
    "ServingError",
    "ServingIdentity",
    "ServingResult",
    "Workers",
    "Workload",
    "WorkloadResult",
    "device_name",
    "engine_version",
    "find_noise",
    "measure",
    "prepare_workers",
]
