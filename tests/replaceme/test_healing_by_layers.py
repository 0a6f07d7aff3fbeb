"""Healing a model whose layers are brought one by one, against one that is in memory."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from replaceme.architectures import architecture_of
from replaceme.calibration import CalibrationText
from replaceme.decoder import Decoder
from replaceme.edit import Edit
from replaceme.healing import Training
from replaceme.healing.heal import Healed, heal
from replaceme.healing.pair import Pair
from replaceme.healing.places import Places
from replaceme.io import models
from replaceme.io.layers import LayerFiles, open_layers
from replaceme.io.saved import SavedLayers
from replaceme.room import Room
from replaceme.selection import Block
from tests.families import FAMILIES, near_identity, small
from tests.replaceme.test_healing import sequences

BLOCK = Block(3, 5)
NAMES = ["llama", "gpt_neox", "qwen3_moe", "olmo2"]
SETTINGS = {"tokens": 1000, "batch_size": 4, "learning_rate": 3e-3, "checks": 4}


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Saves a small model of a family."""

    def save(name: str) -> Path:
        family, folder = FAMILIES[name], tmp_path_factory.mktemp(name)
        small(family.model_type, **family.settings).save_pretrained(folder)
        return folder

    return save


def load(folder: Path, by_layers: bool, room: Room | None = None) -> Decoder:
    if not by_layers:
        from transformers import AutoModelForCausalLM

        return Decoder.of(AutoModelForCausalLM.from_pretrained(folder).eval())
    architecture = architecture_of(models.read_config(folder), "the model", folder)
    return Decoder.of(open_layers(folder, architecture, "float32"), room=room)


def make_pair(folder: Path, by_layers: bool, room: Room | None = None, block: Block = BLOCK) -> Pair:
    """Two layers removed, with a transform where the family takes one."""
    decoder = load(folder, by_layers, room)
    diagonal = decoder.kind(block.start - 1).norm is not None
    transform = near_identity(diagonal, 3)
    return Pair.of_edit(decoder, Edit((block,), {block.start - 1: transform}))


def train(pair: Pair, folder: Path, **settings: Any) -> Healed:
    more = {key: settings.pop(key) for key in ("state", "key", "report") if key in settings}
    saved = SavedLayers.of(folder, pair.teacher.architecture)
    places = Places(pair.student.architecture, saved, pair.kept)
    training = Training(**SETTINGS | settings)
    return heal(pair, CalibrationText(sequences()), training, places, **more)


def facts_of(healed: Healed) -> dict[str, Any]:
    without = {"curve": {"__all__": {"seconds"}}, "seconds": True}
    return healed.facts.model_dump(exclude=without)


def assert_same(one: Healed, two: Healed) -> None:
    assert one.facts.used
    assert facts_of(one) == facts_of(two)
    assert one.values.keys() == two.values.keys()
    assert all(torch.equal(values, two.values[name]) for name, values in one.values.items())
    assert one.expected.loss == two.expected.loss


def held(layers: nn.ModuleList) -> list[int]:
    """Numbers of the layers that have matrices in memory."""
    return [
        number
        for number, layer in enumerate(layers)
        if any(p.untyped_storage().nbytes() >= p.nbytes for p in layer.parameters() if p.ndim > 1)
    ]


@pytest.mark.parametrize(
    ("name", "part"),
    [*product(NAMES, ["projection", "mlp"]), ("llama", "tail"), ("llama", "all")],
)
def test_numbers_are_those_of_a_model_in_memory(name: str, part: str, save: Any) -> None:
    folder = save(name)
    whole = make_pair(folder, by_layers=False)
    brought = make_pair(folder, by_layers=True, room=Room(lambda: 0))  # states wait in files
    assert (whole.shared, whole.gaps) == (brought.shared, brought.gaps)
    assert_same(train(whole, folder, train=part), train(brought, folder, train=part))
    assert len(held(brought.teacher.layers)) <= 1


def test_what_is_trained_by_norms_and_in_parts_is_the_same(save: Any) -> None:
    folder, settings = save("llama"), {"train": "projection", "norms": True, "accumulate": 2}
    whole, brought = (train(make_pair(folder, way), folder, **settings) for way in (False, True))
    assert_same(whole, brought)


def test_interrupted_training_goes_on_to_the_same_bytes(save: Any, tmp_path: Path) -> None:
    folder, state = save("llama"), tmp_path / "state.safetensors"
    whole = train(make_pair(folder, by_layers=True), folder, train="mlp")

    def stop(share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pair = make_pair(folder, by_layers=True)
        train(pair, folder, train="mlp", state=state, key="a", report=stop)
    shares: list[float] = []
    pair = make_pair(folder, by_layers=True)
    more: dict[str, Any] = {"state": state, "key": "a", "report": shares.append}
    assert_same(train(pair, folder, train="mlp", **more), whole)
    assert shares[0] > 0.5


def test_no_more_than_a_layer_is_in_memory_and_none_is_read_in_vain(
    save: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step reads the student's own layers onward and back, but for those where it turns; the teacher
    reads all of its own for many steps together."""
    folder, reads, most = save("llama"), Counter[int](), 0
    pair = make_pair(folder, by_layers=True, block=Block(1, 3))
    read, pass_through = LayerFiles.read, Decoder.pass_through

    def count(files: LayerFiles, layer: int) -> Any:
        reads[layer] += 1
        return read(files, layer)

    def look(decoder: Decoder, *asked: Any) -> Any:
        nonlocal most
        found = pass_through(decoder, *asked)
        most = max(most, len(held(pair.teacher.layers)))
        return found

    monkeypatch.setattr(LayerFiles, "read", count)
    monkeypatch.setattr(Decoder, "pass_through", look)
    steps, others = 32, 20
    train(pair, folder, train="projection", tokens=steps * 48, checks=1)
    assert most == 1
    assert all(steps <= reads[layer] <= steps + others for layer in (0, 5))
    assert all(2 * steps <= reads[layer] <= 2 * steps + others for layer in (3, 4))
    assert all(reads[layer] <= others for layer in (1, 2))


def test_student_is_let_go_with_its_pair(save: Any) -> None:
    """And not kept by what brings its teacher's layers."""
    pair = make_pair(save("llama"), by_layers=True)
    teacher, layer = pair.teacher, weakref.ref(pair.student.layers[2])
    del pair
    gc.collect()
    assert layer() is None
    assert teacher.layer(0).mlp.down_proj.weight.isfinite().all()
