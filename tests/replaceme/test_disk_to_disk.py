"""``prune_checkpoint``: a model on disk, to a pruned checkpoint on disk, as a library."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

import replaceme
from replaceme.compat.commands import run_replaceme
from replaceme.errors import InputError
from replaceme.io import loading

SMALL: dict[str, Any] = {"samples": 16, "max_length": 32, "device": "cpu"}


@pytest.fixture
def models_alive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """At each load of a model, how many of those loaded before are still there."""
    from transformers import AutoModelForCausalLM

    loaded: list[Any] = []
    alive: list[int] = []
    load = AutoModelForCausalLM.from_pretrained

    def watch(*arguments: Any, **options: Any) -> Any:
        alive.append(sum(model() is not None for model in loaded))
        model, info = load(*arguments, **options)
        loaded.append(weakref.ref(model))
        return model, info

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watch)
    monkeypatch.setattr(loading, "LARGE", 0)
    return alive


def test_checkpoint_card_and_facts_are_left_and_one_model_is_in_memory_at_a_time(
    tiny: Path, tmp_path: Path, models_alive: list[int]
) -> None:
    out = tmp_path / "out"
    made = replaceme.prune_checkpoint(str(tiny), out, blocks=["2:4"], solver="lstsq", **SMALL)
    assert models_alive == [0, 0]  # the intact model, and the checkpoint loaded again
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 6
    said = replaceme.Provenance.model_validate_json((out / "replaceme.json").read_text())
    assert said == made.provenance
    assert said.blocks == made.facts.blocks == [(2, 4)]
    assert said.loss == made.facts.loss
    assert said.calibration["token_ids"] == made.facts.calibration_hash
    assert "Layers [2, 4)" in (out / "README.md").read_text("utf-8")
    assert made.summary.endswith(f"Wrote {out}.")
    assert len(load_file(out / "model.safetensors")) == 6 * 9 + 3


def test_published_commands_hold_one_model_at_a_time(
    tiny: Path, tmp_path: Path, texts: list[str], models_alive: list[int], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:8]))
    settings = {"method": "lstsq", "model_path": str(tiny), "dataset": "t.jsonl", "save_path": "out"}
    settings |= {"batch_size": 4, "max_length": 24, "layers_to_skip": 2}
    Path("c.yaml").write_text(yaml.safe_dump(settings))
    result = CliRunner().invoke(run_replaceme, ["--config", "c.yaml"])
    assert result.exit_code == 0, result.output
    assert models_alive == [0, 0]
    said = json.loads(Path("out_ReplaceMe_lstsq_1/replaceme.json").read_text())["calibration"]
    assert said["token_ids"].startswith("sha256:")
    assert said["rows"]["used"] == said["samples"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either --layers N or --blocks START:END"),
        ({"layers": 8}, "layers, model .*: 8 layers cannot be removed from a model of 8"),
        ({"layers": 2, "solvr": "lstsq"}, "--solvr: unknown key; did you mean 'solver'"),
        ({"layers": 2, "solver": "lstq"}, "--solver: unknown solver 'lstq'; did you mean 'lstsq'"),
        ({"layers": 3, "num_blocks": 2}, "allowed are multiples of 2"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_before_anything_is_loaded(
    tiny: Path, tmp_path: Path, options: dict[str, Any], message: str, models_alive: list[int]
) -> None:
    with pytest.raises(InputError, match=message):
        replaceme.prune_checkpoint(str(tiny), tmp_path / "out", **options)
    assert not models_alive
    assert not (tmp_path / "out").exists()
