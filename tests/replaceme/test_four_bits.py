"""Statistics from a model in 4 bits, as the published code takes them; see oracle/README.md."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from pydantic import PrivateAttr
from safetensors.torch import load_file
from torch import Tensor

from replaceme.calibrating import calibrate
from replaceme.calibration import Batches
from replaceme.checkpoint import Checkpoint
from replaceme.compat.commands import run_replaceme, run_uidl
from replaceme.compat.prune import Loaded, reloading
from replaceme.compat.reference import published_choice
from replaceme.fitting import fit
from replaceme.io import loading
from replaceme.selection import Block
from replaceme.solvers import Cosine, Lstsq, Solver

pytestmark = pytest.mark.slow

ORACLE = Path(__file__).parent / "oracle"
EXPECTED: dict[str, Any] = json.loads((ORACLE / "oracle.json").read_text("utf-8"))
BLOCKS = (Block(3, 5), Block(6, 8))


class Replayed(Cosine):
    """Descends through the recorded shuffles, ten for each block."""

    _orders: Iterator[Tensor] = PrivateAttr()

    def orders(self, count: int, seed: int) -> Iterator[Tensor]:  # noqa: ARG002
        return islice(self._orders, self.epochs)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return load_file(ORACLE / "four_bits.safetensors")


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded model, with a tokenizer so that it loads; the token ids are recorded as well."""
    folder = tmp_path_factory.mktemp("four") / "model"
    shutil.copytree(ORACLE / "model", folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    model, _ = loading.load(folder, "float16", four_bits=True)
    return Loaded(model, Batches(EXPECTED["sequences"], 1, pad=EXPECTED["pad"]), "nf4")


def transforms(loaded: Loaded, folder: Path, solver: Solver) -> dict[int, Tensor]:
    found = calibrate(
        loaded.model, loaded.batches, blocks=[BLOCKS], solvers=[solver], compat_reference=True
    )
    with reloading(Checkpoint.read(str(folder), folder), folder.parent, loaded) as reload:
        return fit(solver, found, BLOCKS, reload=reload).edit.transforms


def test_matrices_of_the_layers_are_in_four_bits_and_the_rest_in_half_precision(loaded: Loaded) -> None:
    kinds = {name: parameter.dtype for name, parameter in loaded.model.named_parameters()}
    projections = {kind for name, kind in kinds.items() if "_proj" in name}
    assert projections == {torch.uint8}
    assert {kind for name, kind in kinds.items() if "_proj" not in name} == {torch.float16}


def test_distances_equal_the_published(loaded: Loaded, recorded: dict[str, Tensor]) -> None:
    found = calibrate(loaded.model, loaded.batches, counts=[2], compat_reference=True).distances
    assert found is not None
    got, wanted = found.diagonal(2), recorded["distances.2"]
    assert (got - wanted).abs().max() < 2e-4  # of arccos in float16
    assert published_choice(got.tolist(), 2).blocks == published_choice(wanted.tolist(), 2).blocks
    in_float32 = torch.tensor(EXPECTED["distances"]["bs1"]["2"], dtype=torch.float64)
    assert (in_float32 - wanted).abs().max() > 1e-3


def test_least_squares_equal_the_published(
    loaded: Loaded, folder: Path, recorded: dict[str, Tensor]
) -> None:
    got = transforms(loaded, folder, Lstsq())
    for k, block in enumerate(BLOCKS):
        wanted = recorded[f"lstsq.{k}"].double()
        assert (got[block.start - 1] - wanted).norm() < 1e-6 * wanted.norm()


def test_a_second_block_is_fitted_on_the_model_that_was_saved_and_loaded_in_four_bits(
    loaded: Loaded, folder: Path, recorded: dict[str, Tensor]
) -> None:
    solver = Replayed()
    solver._orders = iter(recorded["shuffles"].long())
    got = transforms(loaded, folder, solver)
    for k, block in enumerate(BLOCKS):
        wanted = recorded[f"cosine.{k}"].double()
        correction = (wanted - torch.eye(len(wanted), dtype=torch.float64)).norm()
        assert (got[block.start - 1] - wanted).norm() < 1e-2 * correction  # states in bfloat16 there
    assert not list(folder.parent.glob(".pruned-*"))


@pytest.fixture
def settings(tiny: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts[:16])
    Path("texts.jsonl").write_text(rows, "utf-8")
    sizes = {"batch_size": 4, "max_length": 24, "layers_to_skip": 2, "use_4bit": True}
    return {"model_path": str(tiny), "dataset": "texts.jsonl", "save_path": "out"} | sizes


def run(command: Any, settings: dict[str, Any]) -> Any:
    Path("c.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    result = CliRunner().invoke(command, ["--config", "c.yaml"])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("compat", ["reference", None])
def test_what_is_fitted_in_four_bits_is_merged_into_bfloat16(
    settings: dict[str, Any], tiny: Path, compat: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, confirm = [], Checkpoint.confirm

    def watch(*arguments: Any) -> float | None:
        losses.append(confirm(*arguments))
        return losses[-1]

    monkeypatch.setattr(Checkpoint, "confirm", watch)
    lines = run(run_replaceme, settings | {"method": "lstsq", "compat": compat}).stdout.splitlines()
    assert lines[-2] == "Wrote out_ReplaceMe_lstsq_1."
    whole = load_file(tiny / "model.safetensors")
    saved = load_file("out_ReplaceMe_lstsq_1/model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    first = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(saved[first], whole[first].bfloat16())
    provenance = json.loads(Path("out_ReplaceMe_lstsq_1/replaceme.json").read_text("utf-8"))
    assert provenance["calibration"]["model_in"].startswith("nf4 (bitsandbytes ")
    assert provenance["calibration"]["token_ids"].startswith("sha256:")
    assert provenance["calibration"]["rows"]["used"] == provenance["calibration"]["samples"] == 16
    assert losses[0] and 0 < losses[0] < 20  # nats per token of the checkpoint loaded again
    assert "quantization_config" not in json.loads(
        Path("out_ReplaceMe_lstsq_1/config.json").read_text("utf-8")
    )


def test_plain_removal_writes_the_weights_of_the_checkpoint_and_says_so(
    settings: dict[str, Any], tiny: Path
) -> None:
    assert "where the published code writes them in 4 bits" in run(run_uidl, settings).stderr
    saved = load_file("out_UIDL/model.safetensors")
    whole = load_file(tiny / "model.safetensors")
    assert torch.equal(saved["model.norm.weight"], whole["model.norm.weight"])
    assert all(saved[name].dtype == whole[name].dtype for name in saved)


def test_matrices_that_stay_in_half_precision_are_named(
    settings: dict[str, Any], save_model: Callable[..., Path]
) -> None:
    changes = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 4}
    save_model(Path("experts"), "mixtral", **changes)
    said = run(run_replaceme, settings | {"method": "lstsq", "model_path": "./experts"}).stderr
    experts = "model.layers.*.mlp.experts"
    assert (
        f"use_4bit: {experts}.down_proj, {experts}.gate_up_proj, model.layers.*.mlp.gate.weight" in said
    )
    assert "stay in float16" not in run(run_uidl, settings).stderr


def test_without_the_library_statistics_are_those_in_bfloat16_with_a_notice(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "has_four_bits", lambda: False)
    result = run(run_replaceme, settings | {"method": "lstsq"})
    assert "pip install 'replaceme[bnb]'" in result.stderr
    provenance = json.loads(Path("out_ReplaceMe_lstsq_1/replaceme.json").read_text("utf-8"))
    assert provenance["calibration"]["model_in"] == "bfloat16"
