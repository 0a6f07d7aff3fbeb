"""Other files that commands read: edits, safetensors headers, settings, distances, published tables."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import strategies as st

from bench.leaderboard.published_file import Published
from replaceme.edit import Edit
from replaceme.io import yaml_source
from replaceme.io.editfile import load_edit, save_edit
from replaceme.provenance import Provenance
from replaceme.selection import Block
from tests.bench.fuzzing import (
    control_characters,
    damaged,
    ends_well,
    fuzz,
    in_time,
    mutated,
    read_or_refused,
    write,
)

pytestmark = pytest.mark.slow

PUBLISHED = Path(__file__).parents[2] / "results" / "published"


def edit_bytes(folder: Path, tensors: dict[str, Any] | None = None) -> bytes:
    """The file of an edit of the small model."""
    import torch

    provenance = Provenance(
        model="m",
        weights="sha256:0",
        blocks=[(3, 5)],
        selector="angular",
        runner_up=None,
        solver={"name": "lstsq", "version": 1, "parameters": {}},
        calibration={"dataset": "builtin:prose", "tokens": 10},
        relative_error=None,
        mean_cosine=None,
        loss=None,
        intact_loss=None,
        warning=None,
        notes={},
        dtype=None,
    )
    edit = Edit((Block(3, 5),), {2: torch.eye(64, dtype=torch.float64)}, tensors or {})
    save_edit(folder / "edit.safetensors", edit, provenance)
    return (folder / "edit.safetensors").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def edit(folder: Path) -> bytes:
    return edit_bytes(folder)


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header: Any, data: bytes, size: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


@fuzz(80, data=st.data())
def test_edit_file_of_any_bytes_is_loaded_or_refused(folder: Path, edit: bytes, data: Any) -> None:
    header, tensors = split(edit)
    how = data.draw(st.sampled_from(["bytes", "header", "provenance", "size"]))
    if how == "bytes":
        content = data.draw(damaged(edit) | st.binary(max_size=40))
    elif how == "header":
        content = joined(data.draw(mutated(header)), tensors)
    elif how == "size":
        sizes = st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
        content = joined(header, tensors, data.draw(sizes))
    else:
        provenance = json.loads(header["__metadata__"]["replaceme"])
        header["__metadata__"]["replaceme"] = json.dumps(data.draw(mutated(provenance)))
        content = joined(header, tensors)
    path = write(folder / "changed.safetensors", content)
    read_or_refused(path, load_edit)


@fuzz(40, data=st.data())
def test_apply_of_any_edit_makes_a_checkpoint_or_refuses(
    folder: Path, edit: bytes, tiny: Path, data: Any
) -> None:
    header, tensors = split(edit)
    provenance = json.loads(header["__metadata__"]["replaceme"])
    provenance["blocks"] = data.draw(
        st.sampled_from([[[3, 5]], [], [[0, 2]], [[5, 3]], [[3, 99]], [[3, 5], [4, 6]], [[-1, 2]]])
    )
    header["__metadata__"]["replaceme"] = json.dumps(
        data.draw(mutated(provenance, 1)) if data.draw(st.booleans()) else provenance
    )
    name = data.draw(
        st.sampled_from(
            [
                "transform.2",
                "transform.99",
                "transform.-1",
                "weight.2.mlp.down_proj.weight",
                "weight.2.x",
                "weight.4.mlp.down_proj.weight",
                "transform.3",
            ]
        )
    )
    shape = data.draw(st.sampled_from([[64, 64], [32, 128], [4096], [64, 64, 1], [1, 4096]]))
    kind = data.draw(st.sampled_from(["F64", "I64", "U64"]))
    header = {
        "__metadata__": header["__metadata__"],
        name: {"dtype": kind, "shape": shape, "data_offsets": [0, len(tensors)]},
    }
    path, out = write(folder / "apply.safetensors", joined(header, tensors)), folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    result = ends_well("apply", path, tiny, "--out", out, codes={0, 2})
    assert out.is_dir() == (result.exit_code == 0)


@fuzz(60, data=st.data())
def test_model_weights_with_any_header_are_read_or_refused(folder: Path, tiny: Path, data: Any) -> None:
    from replaceme.io.tensorfile import read_header

    content = (tiny / "model.safetensors").read_bytes()
    header, tensors = split(content)
    if data.draw(st.booleans()):
        content = joined(data.draw(mutated(header)), tensors[:4096])
    else:
        content = data.draw(damaged(content[:4096]))
    path = write(folder / "model.safetensors", content)
    read_or_refused(path, read_header)


PRUNE = {
    "model": "/no/such/model",
    "layers": 2,
    "solver": {"name": "lstsq", "ridge": 0.1},
    "calibration": "builtin:prose",
    "samples": 4,
    "max_length": 32,
    "out": "/no/such/out",
    "selector": "angular",
    "dtype": "float32",
    "seed": 1,
}
SEED = {
    "method": "lstsq",
    "model_path": "/no/such/model",
    "dataset": "Open-Orca/SlimOrca",
    "dataset_column": "text",
    "dataset_size": 10,
    "max_length": 32,
    "layers_to_skip": 2,
    "alpha": 0.5,
    "solver": "adam",
    "distances_path": "/no/such/distances.json",
    "save_path": None,
}


def safe(content: Any) -> bytes | None:
    try:
        return yaml.safe_dump(content).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, UnicodeError, RecursionError):
        return None


@fuzz(80, content=mutated(PRUNE) | st.just(PRUNE))
def test_prune_settings_of_any_values_are_refused(folder: Path, content: dict[str, Any]) -> None:
    if text := safe(content | {"model": "/no/such/model", "out": str(folder / "pruned")}):
        ends_well("prune", "--config", write(folder / "prune.yaml", text), codes={2})


@fuzz(80, content=mutated(SEED), verb=st.sampled_from(["run_replaceme", "run_uidl"]))
def test_published_settings_of_any_values_are_refused(
    folder: Path, content: dict[str, Any], verb: str
) -> None:
    from replaceme.compat import commands as seed

    if (text := safe(content | {"model_path": "/no/such/model"})) is None:
        return
    with in_time():
        path = write(folder / "seed.yaml", text)
        result = CliRunner().invoke(getattr(seed, verb), ["--config", str(path)])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert not control_characters(result.output)


TABLE = yaml.safe_load((PUBLISHED / "table-2.yaml").read_text("utf-8"))


@fuzz(60, content=mutated(TABLE, 3))
def test_published_table_of_any_values_is_shown_or_refused(
    folder: Path, content: dict[str, Any]
) -> None:
    from dataclasses import replace

    from bench.leaderboard.quoting import quoted
    from bench.leaderboard.table import Table
    from bench.render.formats import FORMATS

    if (text := safe(content)) is None:
        return
    path = write(folder / "table.yaml", text)
    published = read_or_refused(path, lambda path: yaml_source.load(path, Published))
    if published is None or published.include:
        return
    with in_time():
        table = replace(Table([], [], []), quoted=[quoted(published)])
        for render in FORMATS.values():
            assert isinstance(render(table), str)
