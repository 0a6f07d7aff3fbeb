"""Which tensors of the files are the model: right is what transformers loads of the same folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from replaceme.edit import Edit
from replaceme.errors import InputError
from replaceme.io import loading, matching
from replaceme.io.contents import WEIGHTS
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint

Save = Callable[..., Path]
Change = Callable[[dict[str, Tensor], dict[str, Any]], None]


def changed(source: Path, folder: Path, change: Change) -> Path:
    """A copy of a checkpoint with other tensors or another config."""
    shutil.copytree(source, folder)
    weights = load_file(folder / WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    change(weights, config)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def reload(folder: Path) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)


def old_config(_: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["num_hidden_layers"] = 6


def further_predictions(weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    """A layer behind the last one that predicts the token after the next, as in DeepSeek-V3."""
    last = {name: tensor for name, tensor in weights.items() if ".layers.7." in name}
    weights |= {name.replace(".7.", ".8."): tensor.clone() for name, tensor in last.items()}
    weights["model.layers.8.eh_proj.weight"] = torch.ones(64, 128)
    weights["mtp.head.weight"] = weights["lm_head.weight"].clone()
    config["num_nextn_predict_layers"] = 1


def old_buffers(weights: dict[str, Tensor], _: dict[str, Any]) -> None:
    weights |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(16) for i in range(8)}


@pytest.mark.parametrize("change", [old_config, further_predictions, old_buffers])
def test_tensors_that_are_not_loaded_are_neither_counted_nor_written(
    tiny: Path, tmp_path: Path, change: Change
) -> None:
    source, out = changed(tiny, tmp_path / "source", change), tmp_path / "out"
    model, _ = reload(source)
    right = sum(parameter.numel() for parameter in model.parameters())
    found = matching.match(source)
    assert found.own.keys() == model.state_dict().keys()
    assert found.parameters == right
    assert 0 < matching.file_bytes(source, found) - 4 * right < 20_000
    write_checkpoint(source, out, Edit((Block(4, 5),)), None)
    assert (out / WEIGHTS).stat().st_size == matching.file_bytes(out, matching.match(out))
    again, loaded = reload(out)
    assert not any(loaded.values())
    config = json.loads((out / "config.json").read_text())
    assert config["num_hidden_layers"] == len(again.model.layers) == len(model.model.layers) - 1
    assert not config.get("num_nextn_predict_layers")


@pytest.mark.parametrize("same", [True, False])
def test_head_beside_tied_embeddings_is_what_transformers_makes_of_it(
    save_model: Save, tmp_path: Path, same: bool
) -> None:
    """Left out where it is a copy; where it differs, it is kept and the config says so."""

    def add_head(weights: dict[str, Tensor], _: dict[str, Any]) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone() + (0 if same else 1)

    tied = save_model(tmp_path / "tied", tie_word_embeddings=True)
    source, out = changed(tied, tmp_path / "source", add_head), tmp_path / "out"
    model, _ = reload(source)
    right = sum(parameter.numel() for parameter in model.parameters())
    assert matching.match(source).parameters == right
    write_checkpoint(source, out, Edit(), None)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is same
    assert ("lm_head.weight" in load_file(out / WEIGHTS)) is not same
    assert torch.equal(reload(out)[0].lm_head.weight, model.lm_head.weight)


def without(*names: str) -> Change:
    def change(weights: dict[str, Tensor], _: dict[str, Any]) -> None:
        for name in names:
            del weights[name]

    return change


def other_vocabulary(_: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["vocab_size"] = 500


NORM, HEAD = "model.layers.3.input_layernorm.weight", "lm_head.weight"
INCOMPLETE = {
    "no head": (without(HEAD), f"lack {HEAD}, which would be filled with random numbers"),
    "no norm": (without(NORM), f"lack {NORM}, which"),
    "neither": (without(NORM, HEAD), f"lack {HEAD}, {NORM}, which"),
    "vocabulary": (other_vocabulary, "hold lm_head.weight, model.embed_tokens.weight in another shape"),
}


@pytest.mark.parametrize("what", INCOMPLETE)
def test_weights_that_are_not_whole_are_refused_by_name(tiny: Path, tmp_path: Path, what: str) -> None:
    change, message = INCOMPLETE[what]
    source = changed(tiny, tmp_path / "source", change)
    with pytest.raises(InputError, match=message):
        matching.check_complete(source, "x")
    with pytest.raises(InputError, match=message):
        write_checkpoint(source, tmp_path / "out", Edit(), None)
    with pytest.raises(InputError, match=message if "lack" in message else "cannot be loaded"):
        loading.load(source)
    assert not (tmp_path / "out").exists()


def test_code_of_a_model_runs_only_where_it_is_trusted(tiny: Path, tmp_path: Path) -> None:
    def own_code(_: dict[str, Tensor], config: dict[str, Any]) -> None:
        config["model_type"] = "own"
        config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}

    source = changed(tiny, tmp_path / "source", own_code)
    (source / "own.py").write_text("raise SystemExit('it ran')")
    assert matching.match(source).own.keys() == load_file(source / WEIGHTS).keys()
    with pytest.raises(SystemExit, match="it ran"):
        matching.match(source, trust_remote_code=True)
