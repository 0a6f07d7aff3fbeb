"""A checkpoint is loaded again before it is good: code that acts by a layer's number is caught."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from bench.cli import main

pytestmark = pytest.mark.slow

CODE = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM


class Config(LlamaConfig):
    model_type = "steps"


class Model(LlamaForCausalLM):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        for number, layer in enumerate(self.model.layers):
            scale = lambda module, inputs, output, n=number: output * FACTOR
            layer.self_attn.o_proj.register_forward_hook(scale)
"""
CODES = {"by number": "(1 + n % 4)", "all alike": "2"}


@pytest.fixture(scope="module", params=CODES)
def steps(
    request: pytest.FixtureRequest,
    save_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path]:
    """A model with code of its own, that does or does not act by the number of a layer."""
    folder = save_model(tmp_path_factory.mktemp("steps") / request.param.replace(" ", "_"))
    return request.param, with_code(folder, CODES[request.param])


def with_code(folder: Path, factor: str) -> Path:
    """A Llama's folder made one of a model with code of its own."""
    (folder / "steps.py").write_text(CODE.replace("FACTOR", factor))
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "steps",
        "architectures": ["Model"],
        "auto_map": {"AutoConfig": "steps.Config", "AutoModelForCausalLM": "steps.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def prune(*arguments: Any) -> Result:
    sizes = ["--samples", "40", "--max-length", "32", "--trust-remote-code"]
    return CliRunner().invoke(main, ["prune", *sizes, *map(str, arguments)])


def test_checkpoint_that_does_something_else_is_not_left(
    steps: tuple[str, Path], tmp_path: Path
) -> None:
    kind, folder = steps
    done = prune(folder, "--blocks", "3:5", "--solver", "uidl", "--out", tmp_path / "out")
    assert (done.exit_code == 0) == (tmp_path / "out").is_dir() == (kind == "all alike")
    if kind == "by number":
        assert "it is another model when it is loaded again" in done.stderr
        assert not [*tmp_path.iterdir()]


def test_edit_is_not_merged_into_what_would_do_something_else(
    steps: tuple[str, Path], tmp_path: Path
) -> None:
    kind, folder = steps
    edit, out = tmp_path / "edit.safetensors", tmp_path / "out"
    options = ["--blocks", "3:5", "--solver", "lstsq", "--transform-only", "--out", edit]
    assert (prune(folder, *options).exit_code == 0) == (kind == "all alike")
    if kind == "by number":
        assert not edit.exists()
        return
    arguments = ["apply", edit, folder, "--out", out, "--trust-remote-code"]
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert (done.exit_code == 0) == out.is_dir() == (kind == "all alike")


def test_cell_whose_checkpoint_does_something_else_fails(
    steps: tuple[str, Path], task_folder: Path, tmp_path: Path
) -> None:
    """The loss that is recorded of a sound one is that of transformers' own labels on the same rows."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from replaceme.calibration import Batches, CalibrationData, load_sequences

    kind, folder = steps
    suite, out = tmp_path / "suite.yaml", tmp_path / "out"
    content = {
        "name": "x",
        "models": [{"id": str(folder), "trust_remote_code": True}],
        "prune": {"blocks": [[3, 5]], "solvers": ["refit"]},
        "score": {"tasks": ["colours"], "include_path": str(task_folder), "limit": 4},
        "calibration": {"dataset": "builtin:prose", "samples": 40, "max_length": 32},
    }
    suite.write_text(json.dumps(content))
    done = CliRunner().invoke(main, ["run", str(suite), "--out", str(out)])
    (record,) = (
        found
        for file in (out / "records").iterdir()
        if (found := json.loads(file.read_text()))["label"] == "refit"
    )
    if kind == "by number":
        assert done.exit_code == 3
        assert "it is another model when it is loaded again" in record["failures"][0]["error"]
        assert not [*out.glob("checkpoints/*refit*"), *out.glob("edits/*refit*")]
        return
    (checkpoint,) = out.glob("checkpoints/*refit*")
    data = CalibrationData.model_validate(content["calibration"])
    rows = load_sequences(data, AutoTokenizer.from_pretrained(folder))
    held = Batches(rows, 8).held_back(4096)[1].sequences
    model = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=True).eval()
    with torch.no_grad():
        right = [float(model(torch.tensor([r]), labels=torch.tensor([r])).loss) for r in held]
    weighted = sum(loss * (len(row) - 1) for loss, row in zip(right, held, strict=True))
    expected = weighted / sum(len(row) - 1 for row in held)
    assert record["prune"]["reloaded_loss"] == pytest.approx(expected, abs=1e-5)
    assert record["prune"]["loss"][1] == pytest.approx(expected, abs=1e-5)


def test_small_difference_of_a_model_in_half_precision_is_seen(
    save_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Rounding moves the mean over many tokens by far less than a single one's."""
    for name, factor in CODES.items():
        out = tmp_path / f"{name}-pruned"
        folder = with_code(save_model(tmp_path / name.replace(" ", "_"), dtype="bfloat16"), factor)
        options = ["--blocks", "3:5", "--solver", "uidl", "--out", out]
        done = prune(folder, *options, "--samples", "100", "--max-length", "48")
        assert (done.exit_code == 0) == out.is_dir() == (name == "all alike"), done.output


def test_checkpoint_that_there_was_no_memory_to_load_is_kept(
    write_small: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The memory of a device may be enough another time."""

    def runs_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    suite, out = write_small(prune={"layers": [2], "solvers": ["lstsq"]}), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("replaceme.reload.compare_reloaded", runs_out)
        done = CliRunner().invoke(main, ["run", str(suite), "--out", str(out)])
    assert done.exit_code == 3
    (record,) = map(json.loads, map(Path.read_text, out.glob("records/*lstsq*")))
    assert "the memory of the device is not enough" in record["failures"][0]["error"]
    assert [*out.glob("checkpoints/*lstsq*")]
    assert [*out.glob("edits/*lstsq*")]
