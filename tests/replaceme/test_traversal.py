"""The walk gives the same bits in whatever order: model in memory or in files, chunks of any size."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from replaceme import Batches, Block, fit, make_solver
from replaceme.architectures import architecture_of
from replaceme.calibrating import Calibration, calibrate
from replaceme.decoder import Decoder
from replaceme.distances import Tokens, layer_distances
from replaceme.edit import Edit
from replaceme.errors import InputError, OutputError
from replaceme.evaluation import HeldBack
from replaceme.io import models
from replaceme.io.layers import open_layers
from replaceme.room import Room
from replaceme.statistics import Kind, Needs, collect
from tests import zoo
from tests.families import FAMILIES, LAYERS, small

BLOCKS = [Block(1, 3), Block(1, 4), Block(3, 4), Block(3, 6)]
KINDS = [Kind(of_input, rows) for of_input in (False, True) for rows in ("equal", "geometric")]
ROOMS = {"one": {"chunk": 1}, "two": {"chunk": 2}, "all": {}, "no memory": {"free": lambda: 0}}


@dataclass(frozen=True)
class Ways:
    """A model in memory, and the same with its layers in files."""

    whole: Any
    folder: Path

    def walked(self, **room: Any) -> Decoder:
        architecture = architecture_of(models.read_config(self.folder), "the model", self.folder)
        return Decoder.of(open_layers(self.folder, architecture, "float32"), room=Room(**room))


@pytest.fixture(scope="module", params=["llama", "falcon", "mixtral", "gemma2"])
def ways(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ways:
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp(request.param)
    model = small(family.model_type, **family.settings)
    model.save_pretrained(folder)
    return Ways(model, folder)


@pytest.fixture(scope="module")
def batches(sequences: list[list[int]]) -> Batches:
    return Batches(sequences[:14], 3)


def same(one: Any, two: Any) -> bool:
    """Whether everything that two results hold has the same bits."""
    if isinstance(one, Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, Mapping):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(two) and all(same(*pair) for pair in zip(one, two, strict=True))
    return bool(same(vars(one), vars(two)) if hasattr(one, "__dict__") else one == two)


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
@pytest.mark.parametrize("tokens", ["last", "all"])
def test_distances(ways: Ways, batches: Batches, room: dict[str, Any], tokens: Tokens) -> None:
    wanted = layer_distances(Decoder.of(ways.whole), batches, tokens)
    assert same(layer_distances(ways.walked(**room), batches, tokens), wanted)


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
def test_moments_and_samples(ways: Ways, batches: Batches, room: dict[str, Any]) -> None:
    needs = Needs(frozenset(KINDS), 300)
    wanted = collect(Decoder.of(ways.whole), batches, BLOCKS, needs)
    assert same(collect(ways.walked(**room), batches, BLOCKS, needs), wanted)


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
def test_held_back_losses_of_edited_models(ways: Ways, batches: Batches, room: dict[str, Any]) -> None:
    width = ways.whole.config.hidden_size
    chance = torch.Generator().manual_seed(0)
    gains = torch.diag(1 + torch.rand(width, generator=chance, dtype=torch.float64))
    edits = [Edit(), Edit((Block(2, 4),)), Edit((Block(2, 4), Block(5, 6)), {1: gains})]
    whole, walked = (HeldBack(d, batches) for d in (Decoder.of(ways.whole), ways.walked(**room)))
    assert len({whole.loss(edit) for edit in edits}) == len(edits)
    for edit in edits:
        assert same(whole.judge(edit), walked.judge(edit))


@pytest.mark.parametrize("solver", ["uidl", "refit", "reconstruct"])
def test_fits(ways: Ways, batches: Batches, solver: str) -> None:
    def found(model: Any, room: Room | None = None) -> tuple[Calibration, Any]:
        calibration = calibrate(model, batches, counts=[2], solvers=[made], room=room)
        return calibration, fit(made, calibration, calibration.choices[2].blocks)

    made = make_solver(solver)
    wanted, best = found(ways.whole)
    got, again = found(ways.walked().model, Room(iter(range(10**6)).__next__))
    assert same(got.distances, wanted.distances)
    assert got.choices == wanted.choices
    assert same(best.edit, again.edit)
    assert best.model_dump(exclude={"seconds"}) == again.model_dump(exclude={"seconds"})


@pytest.mark.parametrize("edit", [Edit(), Edit((Block(1, 3),))], ids=["whole", "cut"])
def test_a_chunk_is_one_read_of_the_layers(ways: Ways, batches: Batches, edit: Edit) -> None:
    for chunk, chunks in ((2, -(-len(batches) // 2)), (None, 1)):
        decoder = ways.walked(chunk=chunk)
        files = decoder.layers[0].residence.files
        files.inside[:] = [Counted(tensors) for tensors in files.inside]
        HeldBack(decoder, batches).loss(edit)
        reads = sum(tensors.reads for tensors in files.inside)
        assert chunks * len(edit.kept(LAYERS)) <= reads <= chunks * (LAYERS + 1) + 1


class Counted(dict[str, Any]):
    """Counts how often its items are read."""

    reads = 0

    def items(self) -> Any:
        self.reads += 1
        return super().items()


def test_states_come_back_as_they_were_and_leave_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("REPLACEME_CACHE", str(tmp_path))
    room = Room(lambda: 60)
    made = [torch.randn(2, 3, 4).to(dtype) for dtype in (torch.bfloat16, torch.float32, torch.float64)]
    made.append(torch.randn(4, 3).T)
    kept = [room.put(states) for states in made]
    assert len([*tmp_path.rglob("*")]) == 1 + 2  # the first and the last are small enough for memory
    assert same([states.read() for states in kept], made)
    del kept
    assert len([*tmp_path.rglob("*")]) == 1
    del room
    assert not [*tmp_path.rglob("*")]


def test_states_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("REPLACEME_CACHE", str(tmp_path))
    kept = Room(lambda: 0).put(torch.zeros(3))
    (folder,) = tmp_path.iterdir()
    assert str(os.getpid()) in folder.name
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / folder.name.replace(str(os.getpid()), str(dead.pid))
    elsewhere = tmp_path / f"states-another.host-{dead.pid}-x"
    left.mkdir()
    elsewhere.mkdir()
    again = Room(lambda: 0).put(torch.zeros(3))
    assert not left.exists()
    assert elsewhere.exists()
    assert torch.equal(kept.read(), again.read())


def test_no_space_for_states_is_an_error_that_says_how_much(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("REPLACEME_CACHE", str(tmp_path))
    room = Room(lambda: 0)
    kept = room.put(torch.zeros(3))
    shutil.rmtree(*tmp_path.iterdir())
    with pytest.raises(OutputError, match="160 bytes of hidden states find no place in"):
        room.put(torch.zeros(40))
    del kept


def test_model_that_hands_on_more_than_states_must_fit_whole(tmp_path: Path) -> None:
    from replaceme.architectures.small import build_small

    build_small(zoo.config_of("zaya"), zoo.build).save_pretrained(tmp_path)
    architecture = architecture_of(models.read_config(tmp_path), "the model", tmp_path)
    decoder = Decoder(open_layers(tmp_path, architecture, "float32"), architecture)
    with pytest.raises(InputError, match="hands more than hidden states"):
        layer_distances(decoder, Batches([[3, 4, 5], [6, 7]]))
