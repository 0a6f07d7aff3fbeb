"""Which files and tensors of a folder are the model: what transformers itself loads is right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from replaceme.edit import Edit
from replaceme.errors import InputError
from replaceme.io.contents import INDEX, WEIGHTS, left_behind, left_line, stored_tensors, weight_files
from replaceme.io.models import fingerprint
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint

Make = Callable[..., Any]
Arrange = Callable[[Path, Path, Path], None]


@pytest.fixture(scope="module")
def sharded(make_model: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of ``tiny`` times two, in several files."""
    model = make_model()
    for parameter in model.parameters():
        parameter.data *= 2
    folder = tmp_path_factory.mktemp("models") / "sharded"
    model.save_pretrained(folder, max_shard_size="300KB")
    return folder


def stale_index(folder: Path, single: Path, sharded: Path) -> None:
    shutil.copytree(sharded, folder)
    shutil.copy(single / WEIGHTS, folder)


def other_single_files(folder: Path, single: Path, sharded: Path) -> None:
    shutil.copytree(sharded, folder)
    for name in ("consolidated", "adapter_model", "model.fp16"):
        shutil.copy(single / WEIGHTS, folder / f"{name}.safetensors")


def named_in_the_config(folder: Path, single: Path, sharded: Path) -> None:
    shutil.copytree(sharded, folder)
    shutil.copy(single / WEIGHTS, folder / "second.safetensors")
    name_weights(folder, "second.safetensors")


def named_index(folder: Path, single: Path, sharded: Path) -> None:
    stale_index(folder, single, sharded)
    (folder / INDEX).rename(folder / "own.safetensors.index.json")
    name_weights(folder, "own.safetensors.index.json")


def shards_in_a_folder(folder: Path, _single: Path, sharded: Path) -> None:
    shutil.copytree(sharded, folder)
    (folder / "weights").mkdir()
    index = json.loads((folder / INDEX).read_text())
    for name in set(index["weight_map"].values()):
        (folder / name).rename(folder / "weights" / name)
    index["weight_map"] = {name: f"weights/{file}" for name, file in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))


def same_tensor_in_two_files(folder: Path, _single: Path, sharded: Path) -> None:
    shutil.copytree(sharded, folder)
    first, last = (pick(folder.glob("*.safetensors")) for pick in (min, max))
    name, tensor = next((n, t) for n, t in load_file(first).items() if t.dim() == 2)
    save_file(load_file(last) | {name: -tensor}, last, metadata={"format": "pt"})


def wrong_index(folder: Path, _single: Path, sharded: Path) -> None:
    """Every tensor is said to be in the next file, and one that no file has is listed."""
    shutil.copytree(sharded, folder)
    index = json.loads((folder / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    following = dict(zip(files, [*files[1:], files[0]], strict=True))
    index["weight_map"] = {n: following[f] for n, f in index["weight_map"].items()} | {"no": files[0]}
    (folder / INDEX).write_text(json.dumps(index))


def links_into_a_store(folder: Path, _single: Path, sharded: Path) -> None:
    """As the hub's cache has it."""
    folder.mkdir()
    for file in sharded.iterdir():
        (folder / file.name).symlink_to(file)


def name_weights(folder: Path, name: str) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"transformers_weights": name}
    (folder / "config.json").write_text(json.dumps(config))


ARRANGED: list[Arrange] = [
    stale_index,
    other_single_files,
    named_in_the_config,
    named_index,
    shards_in_a_folder,
    same_tensor_in_two_files,
    wrong_index,
    links_into_a_store,
]


@pytest.mark.parametrize("arrange", ARRANGED)
def test_the_model_is_what_transformers_loads(
    tiny: Path, sharded: Path, tmp_path: Path, arrange: Arrange
) -> None:
    """Read, pruned by files, and pruned in memory, it has the same weights; nothing else is copied."""
    from transformers import AutoModelForCausalLM

    source, out = tmp_path / "source", tmp_path / "out"
    arrange(source, tiny, sharded)
    right = AutoModelForCausalLM.from_pretrained(source).state_dict()
    stored = stored_tensors(source)
    assert {name: load_file(tensor.file)[name].sum() for name, tensor in stored.items()} == {
        name: tensor.sum() for name, tensor in right.items()
    }
    write_checkpoint(source, out, Edit((Block(7, 8),)), None)
    again = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert set(right) - set(again) == {name for name in right if ".layers.7." in name}
    assert all(torch.equal(tensor, right[name]) for name, tensor in again.items())
    # vLLM reads all files of this kind in a folder, or those that the index lists
    files = list(out.glob("*.safetensors"))
    assert sorted(weight_files(out)) == sorted(files)
    assert sum(len(load_file(file)) for file in files) == len(again)
    assert (out / INDEX).exists() == (len(files) > 1)
    assert not left_behind(out)


def test_fingerprint_follows_the_weights_that_are_read(
    tiny: Path, sharded: Path, tmp_path: Path
) -> None:
    stale_index(tmp_path / "both", tiny, sharded)
    shutil.copy(tiny / "config.json", tmp_path / "both")
    assert fingerprint(str(tmp_path / "both")) == fingerprint(str(tiny))
    (tmp_path / "both" / WEIGHTS).unlink()
    assert fingerprint(str(tmp_path / "both")) != fingerprint(str(tiny))


def test_what_is_left_behind_is_named(tiny: Path, sharded: Path, tmp_path: Path) -> None:
    stale_index(tmp_path / "both", tiny, sharded)
    assert left_behind(tiny) == []
    assert left_behind(sharded) == []
    (tmp_path / "both" / "onnx").mkdir()
    (tmp_path / "both" / "onnx" / "model.onnx").touch()
    (tmp_path / "both" / ".gitattributes").touch()
    shards = sorted(file.name for file in sharded.glob("*.safetensors"))
    assert left_behind(tmp_path / "both") == [*shards, INDEX, "onnx/"]
    (line,) = left_line(tmp_path / "both")
    assert line.startswith(f"Left behind, as not the model's: {shards[0]}, ")
    assert left_line(tiny) == []


@pytest.mark.parametrize("name", ["../tiny.safetensors", "pytorch_model.bin", 3])
def test_weights_named_elsewhere_are_refused(tiny: Path, tmp_path: Path, name: Any) -> None:
    shutil.copytree(tiny, tmp_path / "source")
    name_weights(tmp_path / "source", name)
    with pytest.raises(InputError, match=r"config\.json: transformers_weights names"):
        weight_files(tmp_path / "source")
