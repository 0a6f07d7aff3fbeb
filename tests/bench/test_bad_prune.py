"""``prune`` and ``apply`` refuse what is wrong: one sentence, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[..., None]
ONE_OF_BOTH = "give either --layers N or --blocks START:END"
FOREIGN = "is not a file that 'prune --transform-only' wrote; give one of those"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], [ONE_OF_BOTH]),
        (["--layers", "2", "--blocks", "2:4"], [ONE_OF_BOTH]),
        (["--layers", "8"], ["--layers", "8 layers cannot be removed from a model of 8", "1 to 7"]),
        (["--layers", "0"], ["--layers: 0 layers cannot be removed"]),
        (["--layers", "3", "--num-blocks", "2"], ["3 layers cannot be removed in 2", "multiples of 2"]),
        (["--blocks", "2-4"], ["--blocks: block '2-4' is not START:END"]),
        (["--blocks", "0:4"], ["--blocks: [0, 4] is no block: START is at least 1"]),
        (["--blocks", "6:9"], ["'6:9' does not fit a model of 8 layers", "at most 8"]),
        (["--blocks", "2:5", "--blocks", "4:6"], ["the blocks [2, 5] and [4, 6] overlap"]),
        (["--blocks", "2:4", "--num-blocks", "2"], ["'num_blocks' belongs to 'layers'"]),
        (["--layers", "2", "--selector", "angle"], ["--selector: ", "'angular-mean'", "got 'angle'"]),
        (["--layers", "2", "--solver", "lstq"], ["unknown solver 'lstq'; did you mean 'lstsq'?"]),
        (["--layers", "2", "--solver", "uidl", "--ridge", "1"], ["'uidl' has no parameter 'ridge'"]),
        (["--layers", "2", "--solver", "refit", "--ridge", "0"], ["'refit', parameter ridge: "]),
        (
            ["--layers", "2", "--calibration", "none.txt"],
            ["--calibration: ", "'none.txt': no such file"],
        ),
        (["--layers", "2", "--transform-only"], ["its name ends in .safetensors"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_option_of_prune_is_named(
    refused: Refused, call: Call, tiny: Path, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    refused(call("prune", tiny, "--out", tmp_path / "out", *arguments), *parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (
            "layers: 2\nsolvr: lstsq",
            [":4: solvr: unknown key; did you mean 'solver'? Allowed are model"],
        ),
        ("layers: two", [":3: layers: should be a valid integer", "got 'two'"]),
        ("layers: 0", [":3: layers: 0 layers cannot be removed; the least is 1"]),
        ("layers: 9", ["9 layers cannot be removed from a model of 8; allowed are 1 to 7"]),
        ("seed: 1", [ONE_OF_BOTH]),
        ("layers: 2\nblocks: [[2, 4]]", [ONE_OF_BOTH]),
        ("blocks: [2:4]", [":3: blocks: 124 is no block; write '13:19' with quotes"]),
        ("blocks: ['2-4']", [":3: blocks: block '2-4' is not START:END"]),
        ("blocks: [[2, 4], [3, 5]]", [":3: blocks: the blocks [2, 4] and [3, 5] overlap"]),
        ("blocks: {2: 4}", [":3: the key 2 is no text"]),
        ("blocks: {'2': 4}", [":3: blocks: give a list of blocks"]),
        ("layers: 3\nnum_blocks: 2", ["3 layers cannot be removed in 2 blocks", "multiples of 2"]),
        ("layers: 2\nselector: angle", [":4: selector: ", "'perplexity'; got 'angle'"]),
        ("layers: 2\nsolver: lstq", [":4: solver: unknown solver 'lstq'; did you mean 'lstsq'?"]),
        ("layers: 2\nsolver: {name: cosine, epoch: 1}", [":4: solver: ", "did you mean 'epochs'?"]),
        ("layers: 2\nsolver: [lstsq]", [":4: solver: a solver is a name, or a mapping with name"]),
        ("layers: 2\nridge: -1", [":4: ridge: should be greater than or equal to 0; got -1"]),
        ("layers: 2\nsolver: uidl\nridge: 1", ["solver 'uidl' has no parameter 'ridge'"]),
        ("layers: 2\ndtype: int8", [":4: dtype: should be 'float32', 'bfloat16' or 'float16'"]),
        ("layers: 2\noverwrite: maybe", [":4: overwrite: should be a valid boolean", "'maybe'"]),
        ("layers: 2\ncalibration: no.jsonl", [":4: calibration: ", "/no.jsonl': no such file"]),
        ("layers: 2\nlayers: 3", [":4: the key 'layers' stands twice"]),
        ("layers: [2", ["not valid YAML"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_config_of_prune_is_named_with_its_line(
    refused: Refused, call: Call, tiny: Path, tmp_path: Path, lines: str, parts: list[str]
) -> None:
    config = tmp_path / "prune.yaml"
    config.write_text(f"model: {tiny}\nout: {tmp_path / 'out'}\n{lines}\n")
    result = call("prune", "--config", config)
    refused(result, *parts)
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("layers: 2\nout: x\n", "prune.yaml:1: model: this key is required."),
        ("layers: 2\nmodel: x\n", "prune.yaml:1: out: this key is required."),
        ("- a\n", "prune.yaml:1: the file must be a mapping"),
        (None, "prune.yaml cannot be read: No such file or directory."),
    ],
)
def test_config_without_what_is_needed_is_refused(
    refused: Refused, call: Call, tmp_path: Path, text: str | None, part: str
) -> None:
    if text:
        (tmp_path / "prune.yaml").write_text(text)
    refused(call("prune", "--config", tmp_path / "prune.yaml"), part)


def test_wrong_flag_beside_a_good_file_is_named_as_a_flag(
    refused: Refused, call: Call, tiny: Path, tmp_path: Path
) -> None:
    config = tmp_path / "prune.yaml"
    config.write_text(f"model: {tiny}\nlayers: 2\nout: {tmp_path / 'out'}\n")
    result = call("prune", "--config", config, "--selector", "angle")
    refused(result, "Error: --selector: should be 'angular'")


def test_prune_without_model_or_output_says_where_to_name_them(
    refused: Refused, call: Call, tiny: Path
) -> None:
    refused(call("prune"), "name the model: as the argument MODEL, or as 'model' in a --config file")
    refused(call("prune", tiny), "name the output: as --out, or as 'out' in a --config file")


def test_interrupted_prune_does_not_promise_to_continue(
    command: str, tiny: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [command, "prune", tiny, "--layers", "2", "--out", tmp_path / "out"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # else a background job's
    )
    assert process.stderr is not None
    assert "calibrating" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message.endswith("Interrupted.\n")
    assert not (tmp_path / "out").exists()


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "quantised": (
        {"quantization_config": {"quant_method": "gptq"}},
        "the weights are quantised (gptq), and a transform cannot be merged into them exactly",
    ),
    "encoder-decoder": (
        {"model_type": "t5", "architectures": ["T5Model"], "is_encoder_decoder": True},
        "unsupported architecture 't5' (T5Model), an encoder-decoder model; supported are",
    ),
    "unknown": (
        {"model_type": "frob", "architectures": ["FrobForCausalLM"]},
        "unsupported architecture 'frob' (FrobForCausalLM); supported are the decoders that",
    ),
    "encoder": (
        {"model_type": "bert", "architectures": ["BertLMHeadModel"]},
        "its tokens see those that come after them, as in an encoder; supported are decoders",
    ),
}


@pytest.mark.parametrize("verb", ["prune", "apply"])
@pytest.mark.parametrize(("change", "part"), CONFIGS.values(), ids=CONFIGS.keys())
def test_model_that_cannot_be_pruned_is_refused_by_name(
    refused: Refused,
    call_here: Call,
    tiny: Path,
    saved: Path,
    tmp_path: Path,
    verb: str,
    change: dict[str, Any],
    part: str,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    config = model / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    arguments = [model, "--layers", 2] if verb == "prune" else [saved, model]
    refused(call_here(verb, *arguments, "--out", tmp_path / "out"), str(model), part)
    assert list(tmp_path.iterdir()) == [model]


def test_device_that_is_not_there_is_named(call_here: Call, tiny: Path, tmp_path: Path) -> None:
    arguments = ["--layers", 2, "--device", "cude", "--out", tmp_path / "out"]
    result = call_here("prune", tiny, *arguments)
    assert result.returncode == 2
    _, message = result.stderr.splitlines()
    assert message.startswith(f"Error: model {tiny} cannot be loaded: ")
    assert "cude" in message
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_unasked(
    refused: Refused, call_here: Call, tiny: Path, saved: Path, tmp_path: Path
) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file.safetensors"
    folder.mkdir()
    for path in (folder / "notes.txt", folder / "config.json", file):
        path.write_text("mine")
    refused(call_here("prune", tiny, "--layers", 2, "--out", folder), "not empty", "--overwrite")
    refused(call_here("apply", saved, tiny, "--out", folder), "not empty", "--overwrite")
    only = ["--layers", 2, "--transform-only", "--out", file]
    refused(call_here("prune", tiny, *only), "exists; name another file, or use --overwrite")
    refused(
        call_here("prune", tiny, "--layers", 2, "--out", file, "--overwrite"), "is a file; name a folder"
    )
    assert (folder / "notes.txt").read_text() == file.read_text() == "mine"


def test_intact_model_is_not_replaced_even_if_asked(
    refused: Refused, call_here: Call, tiny: Path, saved: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    (tmp_path / "config.json").touch()
    for out in (model, tmp_path):
        for arguments in (["prune", model, "--layers", 2], ["apply", saved, model]):
            refused(call_here(*arguments, "--out", out, "--overwrite"), "holds the intact model")
    assert (model / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def saved(call_here: Call, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``prune --transform-only`` wrote for the block 5:7 of the small model."""
    file = tmp_path_factory.mktemp("saved") / "t.safetensors"
    options = ["--solver", "lstsq", "--samples", 8, "--max-length", 32, "--transform-only"]
    result = call_here("prune", tiny, "--blocks", "5:7", *options, "--out", file)
    assert result.returncode == 0, result.stderr
    return file


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("t.pth", "t.pth is a pickle, which can run code when it is read; give the .safetensors file"),
        ("none.safetensors", "none.safetensors: no such file."),
        ("model.safetensors", FOREIGN),
        ("junk.safetensors", FOREIGN),
        ("folder.safetensors", FOREIGN),
    ],
)
def test_apply_of_what_is_no_saved_transform_is_refused(
    refused: Refused, call_here: Call, tiny: Path, tmp_path: Path, name: str, part: str
) -> None:
    shutil.copy(tiny / "model.safetensors", tmp_path)
    (tmp_path / "t.pth").write_bytes(b"\x80\x04.")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    (tmp_path / "folder.safetensors").mkdir()
    refused(call_here("apply", tmp_path / name, tiny, "--out", tmp_path / "out"), part)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("family", "changes", "part"),
    [
        (
            "llama",
            {"hidden_size": 32},
            "mlp.down_proj.weight of layer 4 has the shape [32, 96], and its",
        ),
        ("llama", {"num_hidden_layers": 6}, "block '5:7' does not fit a model of 6 layers"),
        ("gemma2", {}, "is a norm, and only a diagonal transform can be merged into it"),
    ],
    ids=["narrower", "fewer layers", "norm after the MLP"],
)
def test_transform_that_does_not_fit_a_model_is_refused(
    refused: Refused,
    call_here: Call,
    save_model: Callable[..., Path],
    saved: Path,
    tmp_path: Path,
    family: str,
    changes: dict[str, Any],
    part: str,
) -> None:
    model = save_model(tmp_path / "other", family, **changes)
    result = call_here("apply", saved, model, "--out", tmp_path / "out")
    refused(result, f"t.safetensors does not fit model '{model}': ", part)
    assert list(tmp_path.iterdir()) == [model]
