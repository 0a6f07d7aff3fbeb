"""Pruning in memory and on disk: the same model, and the model that was meant."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from replaceme.architectures import ARCHITECTURES
from replaceme.errors import InputError, OutputError
from replaceme.selection import Block
from replaceme.surgery import check_free, prune_model, write_checkpoint

BLOCK = Block(3, 5)
SLIDING = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "sliding_window": 16},
    "qwen2": {"model_type": "qwen2"},
    "qwen2-sliding": {"model_type": "qwen2", **SLIDING},
    "qwen3": {"model_type": "qwen3"},
}
Save = Callable[..., Path]
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def transform() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(64, 64, generator=generator, dtype=torch.float64)
    return torch.eye(64, dtype=torch.float64) + 0.1 * noise


@pytest.fixture(scope="module")
def prompt() -> Tensor:
    """[2, 40] token ids, longer than the sliding windows here."""
    return torch.randint(2, 512, (2, 40), generator=torch.Generator().manual_seed(6))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> dict[str, Any]:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def checkpoint(
    family: dict[str, Any], save_model: Save, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return save_model(tmp_path_factory.mktemp("source") / "model", **family)


def reload(folder: Path, dtype: str = "auto") -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def prune(model: Any, block: Block, transform: Tensor | None) -> Any:
    prune_model(model, ARCHITECTURES[model.config.model_type], block, transform)
    return model


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    return model(ids).logits


@contextmanager
def skipped(model: Any, block: Block, transform: Tensor | None) -> Iterator[None]:
    """The whole model, whose layers in ``block`` return their input; T follows the MLP before it."""
    layers = model.model.layers
    handles = [layers[i].register_forward_hook(lambda _m, args, _o: args[0]) for i in range(*block)]
    if transform is not None:
        projection = layers[block.start - 1].mlp.down_proj
        handles.append(projection.register_forward_hook(lambda _m, _i, output: output @ transform))
    yield
    for handle in handles:
        handle.remove()


def greedy(model: Any, ids: Tensor, count: int) -> Tensor:
    """Continuations computed from the whole sequence at every step."""
    for _ in range(count):
        ids = torch.cat([ids, logits(model, ids)[:, -1:].argmax(-1)], dim=1)
    return ids


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.mark.parametrize(
    "block, with_transform", [(BLOCK, True), (Block(1, 2), False), (Block(5, 8), True)], ids=str
)
def test_disk_equals_memory(
    checkpoint: Path,
    transform: Tensor,
    prompt: Tensor,
    tmp_path: Path,
    block: Block,
    with_transform: bool,
) -> None:
    chosen = transform if with_transform else None
    write_checkpoint(checkpoint, tmp_path / "out", block, chosen, {})
    in_memory, on_disk = prune(reload(checkpoint), block, chosen), reload(tmp_path / "out")
    weights = on_disk.state_dict()
    assert weights.keys() == in_memory.state_dict().keys()
    assert all(torch.equal(weights[name], t) for name, t in in_memory.state_dict().items())
    assert torch.equal(logits(in_memory, prompt), logits(on_disk, prompt))


@pytest.mark.parametrize("with_transform", [False, True])
@pytest.mark.parametrize("block", [BLOCK, Block(5, 8)], ids=str)
def test_pruned_model_is_the_whole_one_with_the_block_skipped(
    family: dict[str, Any],
    make_model: Make,
    transform: Tensor,
    prompt: Tensor,
    block: Block,
    with_transform: bool,
) -> None:
    chosen = transform if with_transform else None
    model = make_model(**family).double()
    with skipped(model, block, chosen):
        wanted = logits(model, prompt)
    torch.testing.assert_close(logits(prune(model, block, chosen), prompt), wanted, rtol=1e-9, atol=1e-9)


def test_identity_transform_is_plain_removal(make_model: Make) -> None:
    plain, merged = (prune(make_model(), BLOCK, t) for t in (None, torch.eye(64, dtype=torch.float64)))
    weights = merged.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in plain.state_dict().items())


def test_generation_with_a_cache_equals_generation_without(
    checkpoint: Path, transform: Tensor, prompt: Tensor, tmp_path: Path
) -> None:
    write_checkpoint(checkpoint, tmp_path / "out", BLOCK, transform, {})
    for model in (prune(reload(checkpoint), BLOCK, transform), reload(tmp_path / "out")):
        wanted = greedy(model, prompt, 8)
        got = model.generate(
            prompt, max_new_tokens=8, do_sample=False, use_cache=True, eos_token_id=None, pad_token_id=1
        )
        assert torch.equal(got, wanted)


def test_configs_of_memory_and_disk_agree(checkpoint: Path, tmp_path: Path) -> None:
    original = json.loads((checkpoint / "config.json").read_text())
    write_checkpoint(checkpoint, tmp_path / "out", BLOCK, None, {})
    prune(reload(checkpoint), BLOCK, None).save_pretrained(tmp_path / "memory")
    disk, memory = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("out", "memory")
    )
    assert disk == memory
    changed = {key for key in disk if disk[key] != original[key]}
    assert "num_hidden_layers" in changed <= {"num_hidden_layers", "layer_types", "max_window_layers"}
    assert disk["num_hidden_layers"] == 6


@pytest.mark.parametrize(
    "block, full", [(Block(1, 3), 2), (Block(3, 5), 3), (Block(3, 7), 3), (Block(5, 8), 4)], ids=str
)
def test_window_layers_follow_the_layers(
    save_model: Save, tmp_path: Path, block: Block, full: int
) -> None:
    source = save_model(tmp_path / "source", "qwen2", **SLIDING)
    write_checkpoint(source, tmp_path / "out", block, None, {})
    config = reload(tmp_path / "out").config
    size = 8 - block.size
    assert config.num_hidden_layers == len(config.layer_types) == size
    assert config.max_window_layers == full
    assert config.layer_types == ["full_attention"] * full + ["sliding_attention"] * (size - full)


def test_only_the_tensors_concerned_change(tiny: Path, transform: Tensor, tmp_path: Path) -> None:
    write_checkpoint(tiny, tmp_path / "out", BLOCK, transform, {})
    before, after = tensors_of(tiny), tensors_of(tmp_path / "out")
    merged = "model.layers.2.mlp.down_proj.weight"
    wanted = {
        name.replace(f"layers.{i}.", f"layers.{i - 2}.") if i > 4 else name: tensor
        for name, tensor in before.items()
        for i in [int(name.split(".")[2]) if "layers" in name else 0]
        if i not in (3, 4)
    }
    assert after.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(after[name], wanted[name])] == [merged]
    expected = (transform.mT @ before[merged].double()).float()
    torch.testing.assert_close(after[merged], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("tied", [False, True])
def test_sharded_checkpoint_stays_sharded_with_a_correct_index(
    make_model: Make, transform: Tensor, prompt: Tensor, tmp_path: Path, tied: bool
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    model = make_model(tie_word_embeddings=tied)
    model.save_pretrained(source, max_shard_size="100KB")
    write_checkpoint(source, out, BLOCK, transform, {})
    index = json.loads((out / "model.safetensors.index.json").read_text())
    held = {name: file.name for file in out.glob("*.safetensors") for name in load_file(file)}
    assert len(set(held.values())) > 3
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors_of(out).values())
    assert torch.equal(logits(reload(out), prompt), logits(prune(model, BLOCK, transform), prompt))


def test_weights_that_the_index_does_not_list_are_left_behind(make_model: Make, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_model().save_pretrained(source, max_shard_size="300KB")
    first = min(source.glob("*.safetensors"))
    (source / "consolidated.safetensors").write_bytes(first.read_bytes())
    write_checkpoint(source, tmp_path / "out", BLOCK, None, {})
    assert not (tmp_path / "out" / "consolidated.safetensors").exists()


def test_missing_shard_is_refused_and_nothing_written(make_model: Make, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_model().save_pretrained(source, max_shard_size="300KB")
    max(source.glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match=r"model-.*safetensors is missing"):
        write_checkpoint(source, tmp_path / "out", BLOCK, None, {})
    assert list(tmp_path.iterdir()) == [source]


def test_weights_without_the_expected_layers_are_refused(tiny: Path, tmp_path: Path) -> None:
    """A checkpoint of the bare decoder names its layers otherwise: nothing would be removed."""
    source = tmp_path / "source"
    reload(tiny).model.save_pretrained(source)
    with pytest.raises(InputError, match=r"model\.layers\.2\.mlp\.down_proj\.weight"):
        write_checkpoint(source, tmp_path / "out", BLOCK, None, {})
    assert list(tmp_path.iterdir()) == [source]


def test_tokenizer_is_carried_over_and_pickles_are_not(
    tiny: Path, tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    source = tmp_path / "source"
    source.mkdir()
    for file in tiny.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    for name in ("pytorch_model.bin", "optimizer.pt", "other.gguf", "LICENSE"):
        (source / name).write_text("x")
    write_checkpoint(source, tmp_path / "out", BLOCK, None, {})
    carried = {file.name for file in (tmp_path / "out").iterdir()}
    assert carried == {*(file.name for file in tiny.iterdir()), "LICENSE", "replaceme.json"}
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again("Some text")["input_ids"] == tokenizer("Some text")["input_ids"]
    assert again.chat_template == tokenizer.chat_template


def test_provenance_is_in_the_checkpoint(tiny: Path, tmp_path: Path) -> None:
    provenance = {"block": [3, 5], "solver": "lstsq", "note": "Schäfer"}
    write_checkpoint(tiny, tmp_path / "out", BLOCK, None, provenance)
    assert json.loads((tmp_path / "out" / "replaceme.json").read_text("utf-8")) == provenance


def test_no_block_copies_the_weights_byte_for_byte(tiny: Path, tmp_path: Path) -> None:
    write_checkpoint(tiny, tmp_path / "out", None, None, {})
    before, after = tensors_of(tiny), tensors_of(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert reload(tmp_path / "out").config.num_hidden_layers == 8


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_cast_checkpoint_equals_the_cast_model_pruned(
    tiny: Path, transform: Tensor, tmp_path: Path, dtype: str
) -> None:
    write_checkpoint(tiny, tmp_path / "out", BLOCK, transform, {}, dtype=dtype)
    on_disk, in_memory = reload(tmp_path / "out"), prune(reload(tiny, dtype), BLOCK, transform)
    assert on_disk.dtype == in_memory.dtype == getattr(torch, dtype)
    weights = on_disk.state_dict()
    assert all(torch.equal(weights[name], t) for name, t in in_memory.state_dict().items())


def test_wider_dtype_is_exact(save_model: Save, transform: Tensor, tmp_path: Path) -> None:
    source = save_model(tmp_path / "source", dtype="bfloat16")
    write_checkpoint(source, tmp_path / "out", BLOCK, transform, {}, dtype="float32")
    name = "model.layers.2.mlp.down_proj.weight"
    before, after = tensors_of(source), tensors_of(tmp_path / "out")
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    assert torch.equal(after["lm_head.weight"], before["lm_head.weight"].float())
    torch.testing.assert_close(after[name], (transform.mT @ before[name].double()).float())


@pytest.mark.parametrize("block", [Block(0, 2), Block(3, 9), Block(3, 3), Block(-2, 1)], ids=str)
def test_block_outside_the_model_is_refused(tiny: Path, tmp_path: Path, block: Block) -> None:
    with pytest.raises(InputError, match="does not fit a model of 8 layers"):
        write_checkpoint(tiny, tmp_path / "out", block, None, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("transform_rows", [32, 65])
def test_failed_write_leaves_nothing(tiny: Path, tmp_path: Path, transform_rows: int) -> None:
    with pytest.raises(RuntimeError):
        write_checkpoint(tiny, tmp_path / "out", BLOCK, torch.eye(transform_rows).double(), {})
    assert not list(tmp_path.iterdir())


def test_full_disk_is_an_output_error_and_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"out cannot be written: .*\."):
            write_checkpoint(tiny, tmp_path / "out", BLOCK, None, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_output_below_a_file_is_an_output_error(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match=r"file/out cannot be written"):
        write_checkpoint(tiny, tmp_path / "file" / "out", BLOCK, None, {})
    assert (tmp_path / "file").read_text() == "kept"


def test_damaged_weights_leave_an_existing_output_alone(tiny: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    (source / "config.json").write_bytes((tiny / "config.json").read_bytes())
    (source / "model.safetensors").write_bytes(struct.pack("<Q", 10**9) + b"{}")
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(InputError, match="damaged"):
        write_checkpoint(source, out, BLOCK, None, {}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
    assert (out / "old").read_text() == "old"


def test_existing_output_is_refused_unless_it_may_be_replaced(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(InputError, match=r"exists and is not empty.*--overwrite"):
        write_checkpoint(tiny, out, BLOCK, None, {})
    assert [file.name for file in out.iterdir()] == ["old"]
    write_checkpoint(tiny, out, BLOCK, None, {}, overwrite=True)
    assert not (out / "old").exists()
    assert reload(out).config.num_hidden_layers == 6
    assert list(tmp_path.iterdir()) == [out]


def test_empty_output_folder_and_missing_parents_are_fine(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b" / "out"):
        write_checkpoint(tiny, out, BLOCK, None, {})
        assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize("overwrite", [False, True])
def test_check_free_says_in_advance_what_a_write_would(tmp_path: Path, overwrite: bool) -> None:
    check_free(tmp_path, overwrite)
    check_free(tmp_path / "new", overwrite)
    (tmp_path / "file").write_text("x")
    if overwrite:
        check_free(tmp_path, overwrite)
    else:
        with pytest.raises(InputError, match="not empty"):
            check_free(tmp_path, overwrite)


def test_source_is_not_touched(tiny: Path, transform: Tensor, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in tiny.iterdir()}
    write_checkpoint(tiny, tmp_path / "out", BLOCK, transform, {}, dtype="bfloat16")
    assert {file.name: file.read_bytes() for file in tiny.iterdir()} == before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "gpt2"}, "supported model types are llama, mistral, qwen2, qwen3"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantised \(awq\)"),
    ],
)
def test_unsupported_checkpoint_is_refused(
    tiny: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    source = tmp_path / "source"
    write_checkpoint(tiny, source, None, None, {})
    config = json.loads((tiny / "config.json").read_text()) | change
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        write_checkpoint(source, tmp_path / "out", BLOCK, None, {})
    assert list(tmp_path.iterdir()) == [source]
