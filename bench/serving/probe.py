"""What vLLM loads into each of its worker processes to read the memory it really holds."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.v1.kv_cache_interface import (
    AttentionSpec,
    KVCacheConfig,
    KVCacheSpec,
    UniformTypeKVCacheSpecs,
)

from bench.serving.swap import Weights

LOAD_FORMAT = "counted_safetensors"
_LOADED_BYTES = "loaded_bytes"


@register_model_loader(LOAD_FORMAT)
class CountingLoader(DefaultModelLoader):
    """Reads safetensors and notes the bytes loaded; on a CPU, vLLM later hides packed weights."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(dataclasses.replace(load_config, load_format="safetensors"))

    def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
        super().load_weights(model, model_config)
        setattr(model, _LOADED_BYTES, storage_bytes(list(model.parameters())))


class Probe(Weights):
    """A vLLM worker extension; its methods are called on every worker."""

    def memory_report(self) -> dict[str, int | None]:
        """This worker's memory in bytes, by the names of `Memory`'s fields."""
        config: KVCacheConfig = self.model_runner.kv_cache_config
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        return {
            "weights_bytes": getattr(self.model_runner.get_model(), _LOADED_BYTES, None),
            "kv_bytes_per_token": kv_bytes_per_token(config),
            "kv_pool_bytes": storage_bytes(self.model_runner.kv_caches),
            "peak_process_memory_bytes": peak_resident_bytes(),
            "peak_device_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        }


def storage_bytes(tensors: list[torch.Tensor]) -> int:
    """Bytes of the memory behind `tensors`, shared memory once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def kv_bytes_per_token(config: KVCacheConfig) -> int:
    """Bytes one token takes in the attention layers of an engine's KV cache configuration."""
    specs = [spec for group in config.kv_cache_groups for spec in _layer_specs(group)]
    attention = [spec for spec in specs if isinstance(spec, AttentionSpec)]
    return sum(spec.page_size_bytes // spec.block_size for spec in attention)


def _layer_specs(group: Any) -> list[KVCacheSpec]:
    if isinstance(group.kv_cache_spec, UniformTypeKVCacheSpecs):
        return list(group.kv_cache_spec.kv_cache_specs.values())
    return [group.kv_cache_spec] * len(group.layer_names)


def peak_resident_bytes() -> int | None:
    """This process's peak resident memory; getrusage would include its parent's from before the exec."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
