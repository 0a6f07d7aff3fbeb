"""Models within a limit on memory."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import replaceme
import replaceme.memory
from replaceme import Checkpoint, InputError, PruneOptions
from replaceme.amounts import parse_size
from replaceme.decoder import Decoder
from replaceme.memory import Footprint, Gauge, load_within


@pytest.fixture
def nothing_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process seems to take no memory, so that a limit of a small model's size means something."""
    monkeypatch.setattr(Gauge, "used", lambda _: 0)
    monkeypatch.setattr(Gauge, "peak", lambda _: 0)


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GiB", 20 << 30), ("500 MB", 500_000_000), ("1.5TiB", 3 << 39), ("64kB", 64_000)],
)
def test_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["20", "20G", "GiB", "-1GiB", "20 gib", "1e9GB", ""])
def test_size_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a number and kB, MB"):
        parse_size(text)


def test_option_without_a_unit_is_refused(tiny: Path) -> None:
    for value in (20, "20"):
        with pytest.raises(ValidationError, match="'20' is no amount of memory"):
            PruneOptions.model_validate({"model": str(tiny), "out": "x", "layers": 1, "memory": value})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_footprint_is_the_memory_of_the_loaded_model(tiny: Path, dtype: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=getattr(torch, dtype))
    layers = [sum(p.nbytes for p in layer.parameters()) for layer in model.model.layers]
    found = Footprint.of(tiny, Checkpoint.open(str(tiny)).architecture, dtype)
    assert found.whole == sum(p.nbytes for p in model.parameters())
    assert found.least == found.whole - sum(layers) + 2 * max(layers)
    assert found.gram == 8 * model.config.intermediate_size**2
    assert found.beside == 2 * found.gram + 16 * 2**23  # logits


def test_gauge_sees_what_is_taken() -> None:
    size = 64 << 20
    gauge = Gauge("cpu", 1 << 40)
    gauge.reserve = 1000
    before = gauge.free()
    with mmap.mmap(-1, size) as taken:  # of the system itself: torch may have some that was freed before
        for page in range(0, size, mmap.PAGESIZE):
            taken[page] = 1
        assert before - gauge.free() > 0.9 * size
        assert before + gauge.used() < (1 << 40) + 1.1 * size


def test_gauge_keeps_room_for_what_came_and_went(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = iter([(100, 100), (110, 150), (120, 150), (110, 155)])  # used, and the peak so far
    now = [(0, 0)]
    monkeypatch.setattr(Gauge, "used", lambda _: now[0][0])
    monkeypatch.setattr(Gauge, "peak", lambda _: now[0][1])

    def measured(take: Callable[[], Any]) -> Any:
        now[0] = next(levels)
        return take()

    gauge = measured(lambda: Gauge("cpu", 1000))
    assert measured(gauge.free) == 1000 - 110 - 50
    assert measured(gauge.free) == 1000 - 120 - 50
    assert measured(gauge.free) == 1000 - 110 - 50


@pytest.mark.usefixtures("nothing_taken")
def test_model_is_loaded_whole_where_it_fits(tiny: Path) -> None:
    architecture = Checkpoint.open(str(tiny)).architecture
    found = Footprint.of(tiny, architecture)

    def is_whole(memory: int | None) -> bool:
        model, _, _ = load_within(tiny, architecture, memory=memory)
        return Decoder(model, architecture).is_resident

    assert is_whole(None) and is_whole(found.whole + found.beside)
    assert not is_whole(found.whole + found.beside - 1)
    assert not is_whole(found.least)


@pytest.mark.usefixtures("nothing_taken")
def test_limit_too_small_for_two_layers_says_the_least(tiny: Path) -> None:
    architecture = Checkpoint.open(str(tiny)).architecture
    with pytest.raises(InputError, match="is too small for model") as error:
        load_within(tiny, architecture, memory=1000)
    least = re.search(r"the least is ([\d.]+ \w+)\.$", str(error.value))
    assert least
    load_within(tiny, architecture, memory=parse_size(least[1]) + 1000)  # it is rounded


@pytest.mark.usefixtures("nothing_taken")
@pytest.mark.parametrize("solver", ["lstsq", "reconstruct"])
def test_checkpoint_pruned_layer_by_layer_is_the_same(
    tiny: Path, tmp_path: Path, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    open_layers: Callable[..., Any] = replaceme.memory.open_layers
    monkeypatch.setattr(
        "replaceme.memory.open_layers", lambda *a, **k: opened.append(a) or open_layers(*a, **k)
    )
    asked = {"layers": 2, "solver": solver, "samples": 12, "max_length": 32, "batch_size": 2}
    for name, memory in (("whole", None), ("walked", "700kB")):
        made = replaceme.prune_checkpoint(str(tiny), tmp_path / name, memory=memory, **asked)
        assert len(opened) == (0 if memory is None else 2)  # calibrated, and confirmed
        assert made.facts.loss is not None
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "walked"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
