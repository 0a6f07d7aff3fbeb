"""``inspect``: what was found in a model's layers, from a checkpoint and from a config alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from bench.verbs.inspect import list_layers

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]
SOLVERS = ("uidl", "lstsq", "relative", "cosine", "refit", "reconstruct")


@pytest.fixture
def config_of(tmp_path: Path) -> Callable[..., Path]:
    """A folder with a config alone."""

    def write(model_type: str, **settings: Any) -> Path:
        folder = tmp_path / model_type
        CONFIG_MAPPING[model_type](**settings).save_pretrained(folder)
        return folder

    return write


def table(text: str) -> dict[str, str]:
    """What stands behind the first word of each line."""
    return {line.split()[0]: line for line in text.splitlines() if line.strip()}


def test_a_checkpoint_is_shown_with_all_that_works(call: Call, tiny: Path) -> None:
    result = call("inspect", tiny)
    assert result.returncode == 0, result.stderr
    assert "8 layers in model.layers, then model.norm" in result.stdout
    assert "no weights" not in result.stdout
    found = table(result.stdout)
    assert "mlp.down_proj" in found["0–7"]
    assert "self_attn.o_proj" in found["0–7"]
    assert all(found[solver].split()[1] == "yes" for solver in SOLVERS)
    assert "yes" in found["removal"]


def test_a_config_alone_is_enough(call: Call, config_of: Callable[..., Path]) -> None:
    found = json.loads(call("inspect", config_of("gemma2", num_hidden_layers=4), "--json").stdout)
    (kind,) = found["architecture"]["kinds"]
    assert kind["norm"] == "post_feedforward_layernorm"
    assert kind["scales"] == {"post_feedforward_layernorm.weight": 1.0}
    assert kind["norms"]["mlp.down_proj"] == {"path": "post_feedforward_layernorm", "offset": 1.0}
    assert not found["files"]
    assert found["removal"] is None
    assert found["diagonal"] is None
    assert "only a diagonal transform can be merged" in found["solvers"]["lstsq"]
    assert found["solvers"]["uidl"] is None


def test_a_cut_that_the_config_cannot_say_is_told_with_its_reason(
    call: Call, config_of: Callable[..., Path]
) -> None:
    """Jamba's config says by the number of a layer what it is."""
    text = call(
        "inspect", config_of("jamba", num_hidden_layers=8), env=os.environ | {"COLUMNS": "400"}
    ).stdout
    assert "it is another model when it is loaded again" in table(text)["removal"]


def test_an_encoder_is_refused(
    call: Call, refused: Callable[..., None], config_of: Callable[..., Path]
) -> None:
    refused(call("inspect", config_of("bert")), "its tokens see those that come after them")


def test_a_hub_model_is_known_by_its_config(call: Call, tiny: Path, tmp_path: Path) -> None:
    """Offline, from the hub's cache, in which no weights lie."""
    snapshot = tmp_path / "hub" / "models--acme--bare" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    shutil.copy(tiny / "config.json", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    result = call("inspect", "acme/bare", env=environment)
    assert "config alone, no weights" in result.stdout
    missing = call("inspect", "acme/none", env=environment)
    assert missing.returncode == 2
    assert "cannot be had from the hub" in missing.stderr


def test_numbers_of_layers_are_told_in_runs() -> None:
    assert list_layers((0, 1, 2, 4, 6, 7)) == "0–2, 4, 6–7"
    assert list_layers(tuple(range(0, 40, 2))) == "0, 2, 4, 6, 8, 10, … (20)"


ASK = """
import json, sys
from pathlib import Path
from replaceme.architectures import architecture_of
architecture_of(json.loads(Path(sys.argv[1]).read_text()), "the model")
print("torch" in sys.modules, "transformers" in sys.modules)
"""


def test_what_was_measured_once_is_known_without_torch(tiny: Path, tmp_path: Path) -> None:
    """So that plans of a model on this machine start at once."""
    environment = os.environ | {"REPLACEME_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", ASK, str(tiny / "config.json")]
    said = [
        subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert said == [["True", "True"], ["False", "False"]]


def test_a_name_in_brackets_is_printed_as_it_is(call: Call, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "[bold]model")
    assert "[bold]model: " in call("inspect", "[bold]model", cwd=tmp_path).stdout
