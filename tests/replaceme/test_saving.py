"""Checkpoints as files: shards, what is carried over, what is refused, and failed writes."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from replaceme.edit import Edit, apply
from replaceme.errors import InputError, OutputError
from replaceme.io.outfolder import check_free, whole_folder
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint
from tests.families import measured

pytestmark = pytest.mark.slow

BLOCK = Block(3, 5)
CUT = Edit((BLOCK,))
INDEX = "model.safetensors.index.json"
DOWN = "mlp.down_proj.weight"
Save = Callable[..., Path]
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def fitted() -> Edit:
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    transform = torch.eye(64, dtype=torch.float64) + 0.1 * noise
    return Edit((BLOCK,), {2: transform}, {(6, DOWN): torch.ones(64, 96) / 7})


def reload(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(torch.arange(2, 40)[None]).logits


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint that a test may change."""
    folder = tmp_path / "source"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with a checkpoint's config and a file ``old``."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")
    (out / "old").write_text("old")
    return out


# weights


@pytest.mark.parametrize("tied", [False, True])
def test_sharded_checkpoint_stays_sharded_with_a_correct_index(
    make_model: Make, fitted: Edit, tmp_path: Path, tied: bool
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    model = make_model(tie_word_embeddings=tied)
    model.save_pretrained(source, max_shard_size="100KB")
    write_checkpoint(source, out, fitted, None)
    index = json.loads((out / INDEX).read_text())
    held = {name: file.name for file in out.glob("*.safetensors") for name in load_file(file)}
    assert len(set(held.values())) > 3
    assert ("lm_head.weight" in held) == (not tied)
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors_of(out).values())
    apply(model, measured(model), fitted)
    again = reload(out)
    assert torch.equal(logits(again), logits(model))
    if tied:
        assert again.lm_head.weight is again.model.embed_tokens.weight


def test_metadata_and_byte_order_of_the_files_are_kept(copy: Path, tmp_path: Path) -> None:
    weights = copy / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt", "origin": "Schäfer"})
    write_checkpoint(copy, tmp_path / "out", CUT, None)
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "origin": "Schäfer"}
    size = struct.unpack("<Q", (tmp_path / "out" / "model.safetensors").read_bytes()[:8])[0]
    assert size % 8 == 0


OWN = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class Own(LlamaForCausalLM):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("counter", torch.arange(5))
        for layer in self.model.layers:
            layer.mlp.down_proj.register_buffer("flags", torch.tensor([False, False]))
"""


def test_tensors_that_are_not_floating_point_are_never_cast(copy: Path, tmp_path: Path) -> None:
    """In a model with code of its own, and buffers there."""
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    config = json.loads((copy / "config.json").read_text()) | {"model_type": "own", "auto_map": names}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(OWN)
    weights, flags = copy / "model.safetensors", "mlp.down_proj.flags"
    extra = {f"model.layers.{layer}.{flags}": torch.tensor([layer == 6, False]) for layer in range(8)}
    extra["counter"] = torch.arange(5)
    save_file(load_file(weights) | extra, weights, metadata={"format": "pt"})
    write_checkpoint(copy, tmp_path / "out", CUT, None, dtype="bfloat16", trust_remote_code=True)
    found = tensors_of(tmp_path / "out")
    assert torch.equal(found["counter"], extra["counter"])
    assert torch.equal(found[f"model.layers.4.{flags}"], extra[f"model.layers.6.{flags}"])
    assert found["lm_head.weight"].dtype == torch.bfloat16


def test_weights_that_the_index_does_not_list_are_left_behind(make_model: Make, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_model().save_pretrained(source, max_shard_size="300KB")
    first = min(source.glob("*.safetensors"))
    (source / "consolidated.safetensors").write_bytes(first.read_bytes())
    write_checkpoint(source, tmp_path / "out", CUT, None)
    assert not (tmp_path / "out" / "consolidated.safetensors").exists()


def test_empty_edit_copies_the_weights_byte_for_byte(tiny: Path, tmp_path: Path) -> None:
    write_checkpoint(tiny, tmp_path / "out", Edit(), None)
    before, after = tensors_of(tiny), tensors_of(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert reload(tmp_path / "out").config.num_hidden_layers == 8


# other files


@pytest.mark.usefixtures("without_peft")
def test_what_belongs_to_the_pruned_model_is_carried_over_and_nothing_else(
    copy: Path, tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    GenerationConfig(temperature=0.7, do_sample=True, eos_token_id=1).save_pretrained(copy)
    own = {file.relative_to(copy) for file in copy.rglob("*")} | {Path("LICENSE"), Path("NOTICE.txt")}
    own |= {Path("modeling_own.py"), Path("additional_chat_templates", "rag.jinja"), Path("tekken.json")}
    others = [
        *("pytorch_model.bin", "optimizer.pt", "old.pth", "other.gguf", "params.json"),
        *("adapter_config.json", "adapter_model.safetensors", "consolidated.safetensors"),
        *("model.fp16.safetensors", "model.safetensors.index.json", "hf_quant_config.json"),
        *("onnx/model.onnx", "original/params.json", "eagle/model.safetensors"),
    ]
    for name in (*own, *map(Path, others)):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).exists() or (copy / name).write_text("{}")
    write_checkpoint(copy, tmp_path / "out", CUT, None)
    assert {f.relative_to(tmp_path / "out") for f in (tmp_path / "out").rglob("*")} == own | {
        Path("additional_chat_templates")
    }
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again("Some text")["input_ids"] == tokenizer("Some text")["input_ids"]
    assert again.chat_template["default"] == tokenizer.chat_template
    assert again.chat_template["rag"] == "{}"
    assert reload(tmp_path / "out").generation_config.temperature == 0.7


def test_usage_of_the_model_card_works(copy: Path, fitted: Edit, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_checkpoint(copy, tmp_path / "out", fitted, None)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert output.shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize(
    "tensor", ["model.layers.2.mlp.down_proj.weight", "model.layers.6.mlp.down_proj.weight"]
)
def test_weights_without_a_tensor_that_is_to_change_are_refused(
    copy: Path, fitted: Edit, tmp_path: Path, tensor: str
) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights[tensor]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"its weights lack {tensor}, which would be filled"):
        write_checkpoint(copy, tmp_path / "out", fitted, None)
    assert list(tmp_path.iterdir()) == [copy]


def test_weights_without_the_expected_layers_are_refused(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    reload(tiny).save_pretrained(source)
    config = json.loads((source / "config.json").read_text()) | {"num_hidden_layers": 10}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"its weights lack model\.layers\.8\..* and 13 more"):
        write_checkpoint(source, tmp_path / "out", CUT, None)
    assert list(tmp_path.iterdir()) == [source]


def test_missing_shard_is_refused_and_nothing_written(make_model: Make, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_model().save_pretrained(source, max_shard_size="300KB")
    max(source.glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match=r"model-.*safetensors is missing"):
        write_checkpoint(source, tmp_path / "out", CUT, None)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    "blocks",
    [(Block(0, 2),), (Block(3, 9),), (Block(3, 3),), (Block(-2, 1),), (Block(1, 2), Block(7, 9))],
    ids=str,
)
def test_block_outside_the_model_is_refused(
    tiny: Path, tmp_path: Path, blocks: tuple[Block, ...]
) -> None:
    with pytest.raises(InputError, match="does not fit a model of 8 layers"):
        write_checkpoint(tiny, tmp_path / "out", Edit(blocks), None)
    assert not list(tmp_path.iterdir())


def test_blocks_that_overlap_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\[1, 4\) and \[3, 5\) overlap"):
        write_checkpoint(tiny, tmp_path / "out", Edit((Block(1, 4), Block(3, 5))), None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "edit",
    [
        Edit((BLOCK,), {2: torch.eye(32).double()}),
        Edit((BLOCK,), {2: torch.eye(65).double()}),
        Edit((BLOCK,), weights={(2, DOWN): torch.eye(64)}),
    ],
    ids=["small transform", "large transform", "other weight"],
)
def test_values_of_another_shape_are_refused(tiny: Path, tmp_path: Path, edit: Edit) -> None:
    with pytest.raises(InputError, match=r"mlp\.down_proj\.weight of layer 2 has the shape \[64, 96\]"):
        write_checkpoint(tiny, tmp_path / "out", edit, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "edit",
    [
        Edit((BLOCK,), {99: torch.eye(64).double()}),
        Edit((BLOCK,), {-1: torch.eye(64).double()}),
        Edit((BLOCK,), weights={(99, DOWN): torch.eye(64)}),
    ],
    ids=["transform", "transform before the first", "weight"],
)
def test_edit_of_a_layer_that_the_model_lacks_is_refused(tiny: Path, tmp_path: Path, edit: Edit) -> None:
    with pytest.raises(InputError, match=r"the weights have no tensor .* of layer (99|-1)\."):
        write_checkpoint(tiny, tmp_path / "out", edit, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layer", [2, 6])
def test_tensor_of_a_dtype_that_cannot_be_changed_is_named(
    copy: Path, fitted: Edit, tmp_path: Path, layer: int
) -> None:
    weights = load_file(copy / "model.safetensors")
    name = f"model.layers.{layer}.{DOWN}"
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"{name} is F8_E4M3, .* dtypes F64, F32, BF16, F16 can be"):
        write_checkpoint(copy, tmp_path / "out", fitted, None)
    assert list(tmp_path.iterdir()) == [copy]
    write_checkpoint(copy, tmp_path / "out", CUT, None)


# failed writes


def test_full_disk_is_an_output_error_and_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"out cannot be written: .*\."):
            write_checkpoint(tiny, tmp_path / "out", CUT, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


SLOW_WRITE = """
import sys, time
from pathlib import Path
from replaceme.io import tensorfile
from replaceme.selection import Block
from replaceme.edit import Edit
from replaceme.surgery import write_checkpoint
copied = tensorfile.copied
def slow(entry, name, data):
    print("writing", flush=True)
    time.sleep(0.05)
    return copied(entry, name, data)
tensorfile.copied = slow
write_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), Edit((Block(3, 5),)), None, overwrite=True)
"""


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_save_leaves_no_half_checkpoint(
    tiny: Path, old: Path, tmp_path: Path, kill: int
) -> None:
    """What stood there before stays; only an abrupt kill can leave a hidden temporary folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITE, str(tiny), str(old)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # else a background job's
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.1)
    os.kill(process.pid, kill)
    assert process.wait(30) != 0
    process.stdout.close()
    assert sorted(file.name for file in old.iterdir()) == ["config.json", "old"]
    others = {path.name for path in tmp_path.iterdir()} - {"out"}
    assert all(name.startswith(".out-") for name in others)
    assert not others or kill == signal.SIGKILL


def test_output_below_a_file_is_an_output_error(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match=r"file/out cannot be written"):
        write_checkpoint(tiny, tmp_path / "file" / "out", CUT, None)
    assert (tmp_path / "file").read_text() == "kept"


def test_damaged_weights_leave_an_existing_output_alone(tiny: Path, old: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_bytes((tiny / "config.json").read_bytes())
    (source / "model.safetensors").write_bytes(struct.pack("<Q", 10**9) + b"{}")
    with pytest.raises(InputError, match="damaged"):
        write_checkpoint(source, old, CUT, None, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
    assert (old / "old").read_text() == "old"


def test_existing_checkpoint_is_refused_unless_it_may_be_replaced(
    tiny: Path, old: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"exists and is not empty.*--overwrite"):
        write_checkpoint(tiny, old, CUT, None)
    assert (old / "old").is_file()
    write_checkpoint(tiny, old, CUT, None, overwrite=True)
    assert not (old / "old").exists()
    assert reload(old).config.num_hidden_layers == 6
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_that_is_no_checkpoint_is_never_replaced(
    tiny: Path, tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty, and without config\.json or replaceme\.json"):
        write_checkpoint(tiny, tmp_path, CUT, None, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["..", ".", "link"])
def test_current_folder_and_its_parents_are_never_replaced(
    tiny: Path, old: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (old / "inside").mkdir()
    (old / "inside" / "link").symlink_to(old)
    monkeypatch.chdir(old / "inside")
    with pytest.raises(InputError, match=r"is the current folder or one above it"):
        write_checkpoint(tiny, Path(name), CUT, None, overwrite=True)
    assert (old / "old").is_file()


def test_folder_behind_a_link_is_replaced_and_the_link_stays(
    tiny: Path, old: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(old)
    write_checkpoint(tiny, link, CUT, None, overwrite=True)
    assert link.is_symlink()
    assert not (old / "old").exists()
    assert reload(old).config.num_hidden_layers == 6
    assert sorted(tmp_path.iterdir()) == [link, old]


def test_old_checkpoint_is_back_where_the_new_one_cannot_take_its_place(
    old: Path, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="out cannot be written"), whole_folder(old) as part:
        part.rmdir()
    assert (old / "old").read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_empty_output_folder_and_missing_parents_are_fine(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b" / "out"):
        write_checkpoint(tiny, out, CUT, None)
        assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize("overwrite", [False, True])
def test_check_free_says_in_advance_what_a_write_would(tmp_path: Path, overwrite: bool) -> None:
    check_free(tmp_path, overwrite)
    check_free(tmp_path / "new", overwrite)
    (tmp_path / "config.json").write_text("x")
    if overwrite:
        check_free(tmp_path, overwrite)
    else:
        with pytest.raises(InputError, match="not empty"):
            check_free(tmp_path, overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_source_is_not_touched(copy: Path, fitted: Edit, tmp_path: Path, overwrite: bool) -> None:
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    write_checkpoint(copy, tmp_path / "out", fitted, None, dtype="bfloat16", overwrite=overwrite)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before
