"""``prune`` and ``apply``: what they write and what they print."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replaceme.options import read_options

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ["--samples", 16, "--max-length", 32]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def prune(call_here: Call, tiny: Path) -> Callable[..., str]:
    """Runs ``prune`` on the small model with little data; returns what it printed."""

    def prune(*arguments: Any, model: Path = tiny) -> str:
        result = call_here("prune", model, *SMALL, "--device", "cpu", *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return prune


def provenance(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "replaceme.json").read_text())


def test_config_of_four_lines_does_as_the_same_flags(call: Call, tiny: Path, tmp_path: Path) -> None:
    config = tmp_path / "prune.yaml"
    config.write_text(f"model: {tiny}\nlayers: 2\nsamples: 16\nout: {tmp_path / 'file'}\n")
    from_file = call("prune", "--config", config)
    assert from_file.returncode == 0, from_file.stderr
    from_flags = call("prune", tiny, "--layers", 2, "--samples", 16, "--out", tmp_path / "flags")
    assert from_file.stdout.replace("/file.", "/flags.") == from_flags.stdout
    for name in (WEIGHTS, "config.json", "replaceme.json", "README.md"):
        assert (tmp_path / "file" / name).read_bytes() == (tmp_path / "flags" / name).read_bytes()


def test_flags_overrule_the_file(prune: Callable[..., str], tmp_path: Path) -> None:
    config = tmp_path / "prune.yaml"
    config.write_text(
        "model: nowhere\nlayers: 4\nnum_blocks: 2\nseed: 3\nsolver: {name: refit, ridge: 0.5}\n"
        f"out: {tmp_path / 'elsewhere'}\n"
    )
    out = tmp_path / "out"
    prune("--config", config, "--blocks", "2:4", "--seed", 0, "--ridge", 0.25, "--out", out)
    assert not (tmp_path / "elsewhere").exists()
    found = provenance(out)
    assert found["blocks"] == [[2, 4]]
    assert found["calibration"]["seed"] == 0
    assert found["solver"] == {"name": "refit", "version": 1, "parameters": {"ridge": 0.25}}


def test_paths_of_a_file_are_relative_to_it_and_those_of_flags_to_the_current_folder(
    call_here: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (there / "model").symlink_to(tiny)
    (there / "text.txt").write_text("Some words of a text. " * 99)
    config = there / "prune.yaml"
    config.write_text("model: model\ncalibration: text.txt\nlayers: 2\nsolver: uidl\nout: out\n")
    monkeypatch.chdir(here)
    for flags in ([], ["--out", "out"]):
        result = call_here("prune", "--config", config, "--device", "cpu", *flags)
        assert result.returncode == 0, result.stderr
    assert provenance(there / "out")["calibration"]["dataset"] == str(there / "text.txt")
    assert (here / "out" / WEIGHTS).is_file()


def test_home_folder_in_a_file_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "prune.yaml"
    config.write_text("model: org/name\nlayers: 2\nout: ~/pruned\n")
    assert read_options(config, {}).out == tmp_path / "pruned"


def test_revisions_and_parts_of_the_hub_can_be_named() -> None:
    given = {"model": "org/name", "layers": 2, "out": "x", "calibration": "org/texts"}
    parts = {"revision": "v1", "subset": "en", "split": "test", "calibration_revision": "v2"}
    options = read_options(None, given | parts)
    assert options.revision == "v1"
    assert (options.data.subset, options.data.split, options.data.revision) == ("en", "test", "v2")


def test_layers_as_a_flag_overrule_blocks_of_the_file(prune: Callable[..., str], tmp_path: Path) -> None:
    config = tmp_path / "prune.yaml"
    config.write_text('blocks: ["2:4", [5, 6]]\nsolver: uidl\nmodel: nowhere\nout: nowhere\n')
    prune("--config", config, "--out", tmp_path / "given")
    assert provenance(tmp_path / "given")["blocks"] == [[2, 4], [5, 6]]
    prune("--config", config, "--layers", 1, "--out", tmp_path / "chosen")
    (block,) = provenance(tmp_path / "chosen")["blocks"]
    assert block[1] - block[0] == 1


SUMMARY = r"""Removed layers \[(\d), (\d)\) \(0-based, the end stays\) of 8\.
Chosen by {selector} at {measure} \d\.\d{{4}}; runner-up \[\d, \d\) at \d\.\d{{4}}\.
Fit on 480 tokens: relative error (0\.\d{{4}}) → (0\.\d{{4}}), mean cosine 0\.\d{{4}} → 0\.\d{{4}}\.
Loss on 32 held-back tokens: intact (\S+), layers removed (\S+), fitted (\S+) nats per token\.
(Warning: its loss on held-back tokens is worse than that of plain removal\.
)?Wrote {out}\.
"""


@pytest.mark.parametrize(
    ("selector", "measure"),
    [("angular", "distance"), ("angular-mean", "distance"), ("perplexity", "loss")],
)
def test_summary_names_blocks_runner_up_and_the_three_losses(
    prune: Callable[..., str], tmp_path: Path, selector: str, measure: str
) -> None:
    out = tmp_path / "out"
    printed = prune("--layers", 2, "--selector", selector, "--out", out)
    shape = SUMMARY.format(selector=selector, measure=measure, out=re.escape(str(out)))
    match = re.fullmatch(shape, printed)
    assert match, printed
    found = provenance(out)
    assert found["blocks"] == [[int(match[1]), int(match[2])]]
    assert found["selector"] == selector
    error = found["relative_error"]
    assert [match[3], match[4]] == [f"{value:.4f}" for value in error]
    losses = [found["intact_loss"], *found["loss"]]
    assert [match[5], match[6], match[7]] == [f"{value:.4f}" for value in losses]
    assert bool(match[8]) == (losses[2] > losses[1]) == bool(found["warning"])


def test_several_blocks_are_listed_with_the_runner_up(prune: Callable[..., str], tmp_path: Path) -> None:
    printed = prune("--layers", 2, "--num-blocks", 2, "--solver", "uidl", "--out", tmp_path / "out")
    found = provenance(tmp_path / "out")
    listed = [" and ".join(f"[{a}, {b})" for a, b in found[key]) for key in ("blocks", "runner_up")]
    assert f"Removed layers {listed[0]} (" in printed
    assert f"runner-up {listed[1]} at " in printed
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 6


def test_given_blocks_have_neither_selector_nor_runner_up(
    prune: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    printed = prune("--blocks", "5:7", "--blocks", "2:3", "--solver", "uidl", "--out", out)
    assert "Removed layers [2, 3) and [5, 7) (0-based, the end stays) of 8." in printed
    assert "Chosen" not in printed
    assert provenance(out)["selector"] is provenance(out)["runner_up"] is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--samples", 9], "of 9 calibration sequences none is held back; give at least 10"),
        (["--compat", "reference"], "the published code holds nothing back"),
    ],
)
def test_where_nothing_is_held_back_it_is_said_why(
    prune: Callable[..., str], tmp_path: Path, arguments: list[Any], reason: str
) -> None:
    printed = prune("--layers", 2, "--solver", "uidl", *arguments, "--out", tmp_path / "out")
    assert f"No loss on held-back tokens: {reason}.\n" in printed
    assert provenance(tmp_path / "out")["loss"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["--layers", 2],
        ["--blocks", "2:3", "--blocks", "5:7", "--solver", "relative"],
        ["--blocks", "3:5", "--solver", "refit"],
        ["--blocks", "3:5", "--solver", "reconstruct"],
        ["--blocks", "3:5", "--dtype", "bfloat16"],
    ],
    ids=lambda arguments: str(arguments[-1]),
)
def test_saved_transform_applied_equals_pruning_at_once(
    call_here: Call, prune: Callable[..., str], tiny: Path, tmp_path: Path, arguments: list[Any]
) -> None:
    direct, applied, saved = tmp_path / "direct", tmp_path / "applied", tmp_path / "t.safetensors"
    printed = prune(*arguments, "--out", direct)
    assert prune(*arguments, "--transform-only", "--out", saved) == printed.replace(
        str(direct), str(saved)
    )
    result = call_here("apply", saved, tiny, "--out", applied)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(f"Wrote {applied}.\n")
    assert "Warning" not in result.stdout
    assert {file.name for file in applied.iterdir()} == {file.name for file in direct.iterdir()}
    for file in direct.iterdir():
        assert (applied / file.name).read_bytes() == file.read_bytes(), file.name


def test_transform_applied_to_other_weights_says_so_everywhere(
    call_here: Call,
    prune: Callable[..., str],
    save_model: Callable[..., Path],
    tiny: Path,
    tmp_path: Path,
) -> None:
    other = save_model(tmp_path / "other", initializer_range=0.2)
    fit = ["--layers", 2, "--solver", "lstsq"]
    prune(*fit, "--transform-only", "--out", tmp_path / "t.safetensors")
    result = call_here("apply", tmp_path / "t.safetensors", other, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    warning = f"it was fitted on other weights, those of {tiny}, and not measured here"
    assert f"Warning: {warning}." in result.stdout
    said, card = provenance(tmp_path / "out"), (tmp_path / "out" / "README.md").read_text()
    assert said["warning"] == warning
    assert said["model"] == str(other)
    assert f"**Warning:** {warning}." in card
    for key in ("relative_error", "mean_cosine", "loss", "intact_loss", "divergence"):
        assert said[key] is None
    assert "|" not in card
