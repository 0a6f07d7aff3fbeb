"""Latency and memory from a real engine, in processes that never outlive their use."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from bench.serving import ServeSettings, ServingError, ServingResult, Workload, find_noise, measure
from bench.serving.result import Distribution, WorkloadResult
from tests.bench.waiting import eventually, list_engines

pytestmark = pytest.mark.slow

LOADS = [
    {"input_len": 16, "output_len": 8, "batch_size": 1},
    {"input_len": 32, "output_len": 8, "batch_size": 4},
]
LAYERS, VOCABULARY, HIDDEN = 4, 512, 64


def settings(**changes: Any) -> ServeSettings:
    options = {"workloads": LOADS, "repeats": 2, "kv_cache_gib": 0.0625, "enforce_eager": True}
    return ServeSettings.model_validate(options | changes)


@pytest.fixture(scope="module")
def model(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "model"
    return save_model(folder, dtype="bfloat16", num_hidden_layers=LAYERS)


@pytest.fixture(scope="module")
def measured(model: Path) -> ServingResult:
    (result,) = measure([model], settings(), model.parent / "engine.log")
    return result


def test_every_timed_run_is_kept(measured: ServingResult) -> None:
    assert [result.workload.label for result in measured.workloads] == [
        "in16-out8-b1",
        "in32-out8-b4",
    ]
    for result in measured.workloads:
        requests = 2 * result.workload.batch_size
        assert len(result.latency_seconds.values) == 2
        assert len(result.ttft_seconds.values) == len(result.tpot_seconds.values) == requests


def test_times_add_up(measured: ServingResult) -> None:
    for result in measured.workloads:
        load, latencies = result.workload, result.latency_seconds.values
        tokens = 2 * load.batch_size * load.output_len
        assert result.output_tokens_per_second == pytest.approx(tokens / sum(latencies))
        assert result.requests_per_second * load.output_len == pytest.approx(tokens / sum(latencies))
        for run, latency in enumerate(latencies):
            part = slice(run * load.batch_size, (run + 1) * load.batch_size)
            first = np.array(result.ttft_seconds.values[part])
            each = np.array(result.tpot_seconds.values[part])
            ends = first + each * (load.output_len - 1)
            assert np.all(first > 0)
            assert np.all(ends <= latency)
            assert ends.max() > 0.5 * latency


def test_memory_is_that_of_the_model(measured: ServingResult) -> None:
    attention = HIDDEN * 32 * (2 + 1 + 1 + 2)
    layer = attention + 3 * HIDDEN * 96 + 2 * HIDDEN
    parameters = LAYERS * layer + 2 * VOCABULARY * HIDDEN + HIDDEN
    assert measured.memory.weights_bytes == 2 * parameters
    assert measured.memory.kv_bytes_per_token == LAYERS * 2 * 32 * 2
    assert measured.memory.kv_pool_bytes is not None
    assert measured.memory.kv_pool_bytes <= 2**26
    assert measured.memory.kv_capacity_tokens is not None
    assert measured.memory.kv_capacity_tokens >= 4 * 40
    assert measured.memory.peak_process_memory_bytes is not None
    assert measured.memory.peak_process_memory_bytes > 2**28


def test_prefix_cache_is_off(measured: ServingResult) -> None:
    assert not measured.engine_settings.enable_prefix_caching
    assert measured.replay_cached_tokens == 0


def test_engine_device_and_dtype_are_named(measured: ServingResult) -> None:
    assert measured.engine == "vllm"
    assert measured.engine_version[0].isdigit()
    assert measured.device
    assert measured.dtype == "bfloat16"


def test_what_ran_beside_the_engine_is_known_for_every_timed_run(measured: ServingResult) -> None:
    for result in measured.workloads:
        assert result.neighbours and result.neighbours.own_cpu_share
        assert result.neighbours.other_cpu_share and result.neighbours.load_average
        own, others = result.neighbours.own_cpu_share, result.neighbours.other_cpu_share
        assert len(own) == len(others) == len(result.neighbours.load_average) == 2
        assert min(own) > 0


def test_checkpoints_of_one_shape_share_an_engine(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] = 2 * tensors["model.norm.weight"]
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    own, surplus = measure([model, other], settings(), tmp_path / "engine.log"), dict(tensors)
    assert [result.weights for result in own] == ["engine", "swap"]
    assert own[0].workloads != own[1].workloads
    surplus["model.rotary_emb.inv_freq"] = tensors["model.norm.weight"].clone()
    save_file(surplus, other / "model.safetensors", {"format": "pt"})
    refused = measure([model, other], settings(), tmp_path / "engine.log")
    assert [result.weights for result in refused] == ["engine", "engine"]


def test_busy_processes_beside_the_engine_make_noise(model: Path, tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        load = {"input_len": 32, "output_len": 32, "batch_size": 4}
        alone = settings(workloads=[load], repeats=4, cpu_threads=1)  # threads would wait for each other
        (found,) = measure([model], alone, tmp_path / "engine.log")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    (noise,) = find_noise(found).values()
    share = re.search(r"other processes took (\d+)% of the CPU time", noise)
    assert share
    assert int(share[1]) > 25


def test_output_of_the_engine_is_in_the_log(measured: ServingResult, model: Path) -> None:
    assert measured.start_seconds > 0
    assert "vLLM" in (model.parent / "engine.log").read_text()


def test_engine_that_fails_says_why_and_leaves_no_process(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchForCausalLM"]}))
    with pytest.raises(ServingError, match="NoSuchForCausalLM"):
        measure([broken], settings(), tmp_path / "engine.log", tmp_path)
    assert not list_engines(tmp_path)


def test_batch_that_does_not_fit_the_kv_cache_is_refused(model: Path, tmp_path: Path) -> None:
    load = {"input_len": 128, "output_len": 8, "batch_size": 128}
    with pytest.raises(ServingError, match=r"workload in128-out8-b128 needs 17408: raise kv_cache_gib"):
        measure([model], settings(workloads=[load], kv_cache_gib=0.002), tmp_path / "engine.log")


def test_engine_that_takes_too_long_is_killed_with_its_group(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="did not finish within 2 s and was killed"):
        measure([model], settings(timeout=2), tmp_path / "engine.log", tmp_path)
    assert not list_engines(tmp_path)


def test_worker_dies_with_a_killed_parent(model: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from bench.serving import ServeSettings, measure; "
        "settings = ServeSettings.model_validate_json(sys.argv[2]); "
        "measure([Path(sys.argv[1])], settings, Path(sys.argv[3]), Path(sys.argv[3]).parent)"
    )
    arguments = [str(model), settings().model_dump_json(), str(tmp_path / "engine.log")]
    parent = subprocess.Popen([sys.executable, "-c", program, *arguments])
    eventually(lambda: len(list_engines(tmp_path)) == 1)
    time.sleep(1)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    eventually(lambda: not list_engines(tmp_path))


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="nowhere is not a checkpoint folder"):
        measure([tmp_path / "nowhere"], settings(), tmp_path / "engine.log")


def test_percentiles_are_those_of_numpy() -> None:
    values = [0.3, 0.1, 0.4, 0.1, 0.5]
    found = Distribution.of(values)
    assert found.values == values
    assert [found.p50, found.p90, found.p99] == pytest.approx(np.percentile(values, [50, 90, 99]))


def test_engine_processes_are_pooled_run_by_run() -> None:
    load = Workload(input_len=4, output_len=2, batch_size=3)
    times = [Distribution.of(values) for values in ([1.0, 3.0], [2.0, 6.0])]
    parts = [
        WorkloadResult(
            workload=load,
            latency_seconds=time,
            ttft_seconds=time,
            tpot_seconds=time,
            output_tokens_per_second=0,
            requests_per_second=0,
        )
        for time in times
    ]
    pooled = WorkloadResult.pooled(parts)
    assert pooled.latency_seconds.values == [1.0, 3.0, 2.0, 6.0]
    assert pooled.ttft_seconds.p50 == 2.5
    assert pooled.requests_per_second == 4 * 3 / 12
    assert pooled.output_tokens_per_second == 2 * pooled.requests_per_second


def test_defaults_are_resolved_in_the_identity() -> None:
    identity = settings().identity()
    assert identity["max_model_len"] == 40
    assert identity["max_batched_tokens"] == 128
    assert identity == settings(max_model_len=40, timeout=5, per_checkpoint=True).identity()
    assert identity != settings(repeats=3).identity()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workloads": [LOADS[0], LOADS[0]]}, "lists the same workload twice"),
        ({"max_model_len": 20}, "workload in32-out8-b4 needs 40 tokens"),
        ({"workloads": [LOADS[0] | {"output_len": 1}]}, "greater than or equal to 2"),
        ({"engine": "tgi"}, "Input should be 'vllm'"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


def test_prompts_are_fresh_for_every_run_and_the_same_for_every_checkpoint() -> None:
    from bench.serving.worker import random_prompts

    load = Workload.model_validate(LOADS[1])
    vocabulary = np.arange(5, 500)
    runs = [random_prompts(vocabulary, 0, load, index) for index in range(3)]
    rows = {tuple(prompt["prompt_token_ids"]) for run in runs for prompt in run}
    assert len(rows) == 12
    assert all(len(row) == 32 and min(row) >= 5 for row in rows)
    assert runs[1] == random_prompts(vocabulary, 0, load, 1)
