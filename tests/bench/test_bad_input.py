"""Bad input through the real command line: one clear sentence, no traceback, the right exit code."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]
WriteSuite = Callable[..., Path]
Refused = Callable[..., None]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"sore": {}}, ["suite.yaml:20: sore: unknown key; did you mean 'score'? Allowed are"]),
        ({"prune": {"layers": [2], "solver": ["uidl"]}}, ["prune.solver", "did you mean 'solvers'?"]),
        ({"prune": {"layers": "two", "solvers": ["uidl"]}}, ["suite.yaml:5: prune.layers", "'two'"]),
        (
            {"prune": {"layers": [2], "solvers": ["lstq"]}},
            ["unknown solver 'lstq'", "'lstsq'", "cosine"],
        ),
        (
            {"prune": {"layers": [2], "solvers": [{"name": "lstsq", "rigde": 1}]}},
            ["has no parameter 'rigde'", "ridge"],
        ),
        (
            {"prune": {"layers": [2], "solvers": [{"name": "lstsq", "ridge": -1}]}},
            ["parameter ridge", "greater than or equal to 0", "-1"],
        ),
        ({"prune": {"layers": [0], "solvers": ["uidl"]}}, ["prune.layers", "the least is 1"]),
        ({"prune": {"layers": [8], "solvers": ["uidl"]}}, ["8 layers cannot", "of 8", "1 to 7"]),
        ({"prune": {"layers": [2, 2], "solvers": ["uidl"]}}, ["prune.layers", "duplicate cells"]),
        ({"prune": {"layers": [2], "solvers": ["uidl", "uidl"]}}, ["'uidl' stands twice", "as: NAME"]),
        (
            {"prune": {"layers": [2], "solvers": ["lstsq", {"name": "lstsq", "as": "again"}]}},
            ["'tiny/2/lstsq' and 'tiny/2/again' are duplicates"],
        ),
        ({"prune": {"solvers": ["uidl"]}}, ["suite.yaml:4: prune: give either 'layers' or 'blocks'"]),
        (
            {"prune": {"layers": [2], "blocks": [[2, 4]], "solvers": ["uidl"]}},
            ["suite.yaml:4: prune: give either 'layers' or 'blocks'"],
        ),
        (
            {"prune": {"blocks": [[2, 5], [4, 6]], "solvers": ["uidl"]}},
            ["suite.yaml:5: prune.blocks: the blocks [2, 5] and [4, 6] overlap"],
        ),
        (
            {"prune": {"blocks": [[0, 2]], "solvers": ["uidl"]}},
            ["suite.yaml:5: prune.blocks: [0, 2] is no block: START is at least 1"],
        ),
        (
            {"prune": {"blocks": [[2]], "solvers": ["uidl"]}},
            ["suite.yaml:6: prune.blocks.0.1: this entry is required."],
        ),
        (
            {"prune": {"blocks": [[6, 9]], "solvers": ["uidl"]}},
            ["tiny'", "block '6:9' does not fit a model of 8 layers", "at most 8"],
        ),
        (
            {"prune": {"layers": [2, 3], "num_blocks": 2, "solvers": ["uidl"]}},
            ["suite.yaml:4: prune: 3 layers cannot be removed in 2 blocks", "multiples of 2"],
        ),
        (
            {"prune": {"blocks": [[2, 4]], "num_blocks": 2, "solvers": ["uidl"]}},
            ["'num_blocks' belongs to 'layers'"],
        ),
        (
            {"prune": {"layers": [2], "selector": "angle", "solvers": ["uidl"]}},
            [":7: prune.selector: should be 'angular', 'angular-mean' or 'perplexity'; got 'angle'"],
        ),
        ({"models": ["./nowhere"]}, ["nowhere", "no such file or folder"]),
        ({"models": ["package:no_such_package/x.gguf"]}, ["'no_such_package' is not installed"]),
        (
            {"calibration": {"dataset": "nowhere.jsonl"}},
            ["calibration", "nowhere.jsonl", "no such file"],
        ),
        ({"calibration": {"dataset": "builtin:novels"}}, ["built in are builtin:prose"]),
        ({"serve": {"workloads": []}}, ["serve.workloads", "at least 1 item"]),
        ({"name": "../escape"}, ["suite.yaml:1: name"]),
        ({"score": None}, ["measures nothing"]),
    ],
    ids=lambda value: None if isinstance(value, list) else json.dumps(value)[:50],
)
def test_suite_error_names_file_key_and_what_is_allowed(
    refused: Refused, call: Call, write_suite: WriteSuite, changes: dict[str, Any], parts: list[str]
) -> None:
    refused(call("plan", write_suite(**changes)), *parts)


@pytest.mark.parametrize(
    ("solver", "part"),
    [
        ({"name": "uidl", "ridge": 1}, "solver 'uidl' has no parameter 'ridge'. It has none."),
        ({"name": "lstsq", "diagnal": True}, "no parameter 'diagnal'; did you mean 'diagonal'?"),
        ({"name": "lstsq", "alpha": -1}, "solver 'lstsq', parameter alpha: "),
        ({"name": "cosine", "method": "sgd"}, "parameter method: Input should be 'adam' or 'irls'"),
        ({"name": "cosine", "epochs": 0}, "solver 'cosine', parameter epochs: "),
        ({"name": "relative", "ridge": "big"}, "solver 'relative', parameter ridge: "),
        ({"name": "refit", "ridge": 0}, "solver 'refit', parameter ridge: "),
        ({"name": "refit", "tokens": 5}, "solver 'refit' has no parameter 'tokens'"),
        ({"name": "reconstruct", "tokens": 0}, "solver 'reconstruct', parameter tokens: "),
        ({"name": "reconstruct", "cutridge": 1}, "'cutridge'; did you mean 'cut_ridge'?"),
        ({"name": "lstsq", "as": 3}, "as: the label of a solver must be a text"),
        ({"ridge": 1}, "a solver is a name, or a mapping with name"),
        (["lstsq"], "a solver is a name, or a mapping with name"),
    ],
    ids=json.dumps,
)
def test_wrong_solver_is_named_with_its_line(
    refused: Refused, call: Call, write_suite: WriteSuite, solver: Any, part: str
) -> None:
    suite = write_suite(prune={"layers": [2], "solvers": ["uidl", solver]})
    refused(call("plan", suite), "suite.yaml:9: prune.solvers.1: ", part)


def test_unknown_task_names_the_nearest(
    refused: Refused, call: Call, write_suite: WriteSuite, task_folder: Path
) -> None:
    suite = write_suite(score={"tasks": ["colour"], "include_path": str(task_folder)})
    refused(
        call("plan", suite),
        "unknown task 'colour'; did you mean 'colours'?",
        "presets (paper, generative)",
    )


def test_missing_task_folder_is_named(refused: Refused, call: Call, write_suite: WriteSuite) -> None:
    suite = write_suite(score={"tasks": ["colours"], "include_path": "no/such"})
    refused(call("plan", suite), "score.include_path", "there is no folder")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- a\n- b\n", ":1: the file must be a mapping"),
        ("", ": the file must be a mapping"),
        ("name: x\nmodels: [\n", "not valid YAML"),
        ("name: x\nname: y\n", ":2: the key 'name' stands twice"),
        ("!!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_file_that_is_no_suite_is_refused(
    refused: Refused, call: Call, tmp_path: Path, text: str, part: str
) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    refused(call("run", path, "--out", tmp_path / "out"), str(path), part)
    assert not (tmp_path / "out").exists()


def test_missing_suite_file_is_named(refused: Refused, call: Call, tmp_path: Path) -> None:
    refused(call("plan", tmp_path / "none.yaml"), "none.yaml cannot be read: No such file or directory")


def test_only_that_matches_nothing_shows_how_cells_are_named(
    refused: Refused, call: Call, write_suite: WriteSuite
) -> None:
    refused(call("plan", write_suite(), "--only", "x*"), "--only x* matches no cell", "tiny/2/lstsq")


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda folder: (folder / "config.json").unlink(), ["not a checkpoint", "no config.json"]),
        (lambda folder: (folder / "config.json").write_text("{"), ["config.json is not valid JSON"]),
        (lambda folder: (folder / "config.json").write_text("[]"), ["does not say its model_type"]),
        (lambda folder: (folder / "model.safetensors").unlink(), ["no weights"]),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"junk"), ["damaged", "header"]),
        (lambda folder: os.truncate(folder / "model.safetensors", 90_000), ["damaged", "shorter"]),
    ],
    ids=["no config", "broken config", "empty config", "no weights", "no safetensors", "truncated"],
)
def test_damaged_model_folder_is_refused_before_anything_starts(
    refused: Refused,
    call: Call,
    write_suite: WriteSuite,
    tiny: Path,
    tmp_path: Path,
    damage: Callable[[Path], Any],
    parts: list[str],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    damage(folder)
    suite = write_suite(models=[str(folder)])
    refused(call("run", suite, "--out", tmp_path / "out"), str(folder), *parts)
    assert not (tmp_path / "out").exists()


def test_unsupported_architecture_is_named_with_what_is_supported(
    refused: Refused, call: Call, write_suite: WriteSuite, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "frob", "architectures": ["FrobForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    result = call("run", write_suite(models=[str(folder)]), "--out", tmp_path / "out")
    refused(
        result,
        "unsupported architecture 'frob' (FrobForCausalLM); supported are the decoders that",
    )


def test_file_that_is_not_gguf_is_refused(
    refused: Refused, call: Call, write_suite: WriteSuite, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    refused(call("plan", write_suite(models=["model.gguf"])), "model.gguf", "nor a GGUF file")


def test_damaged_gguf_fails_its_cells_and_says_why(
    call: Call, write_suite: WriteSuite, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(40))
    result = call("run", write_suite(models=["model.gguf"]), "--out", tmp_path / "out")
    assert result.returncode == 3
    assert "model.gguf cannot be converted" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ('{"texts": "a b c"}\n', "has no column 'text'; did you mean 'texts'? Its columns are texts."),
        ('{"text": "  "}\n', "holds no text"),
        ("", "holds no text: it has no rows"),
        ('{"text": 3}\n', "the column 'text' cannot be used: it holds int; allowed are texts"),
        ('{"text": "a"}\n{"text": "b', "line 2 is not valid JSON (Unterminated string starting at col"),
        (
            '{"text": "caf\xe9"}\n',
            "line 1 is not UTF-8 text (byte 0xE9 at column 14); save it as UTF-8.",
        ),
    ],
    ids=["column missing", "blank", "empty", "numbers", "cut off", "latin 1"],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_unusable_calibration_file_is_refused_before_anything_starts(
    refused: Refused,
    call_here: Call,
    write_suite: WriteSuite,
    tmp_path: Path,
    verb: str,
    rows: str,
    part: str,
) -> None:
    (tmp_path / "data.jsonl").write_bytes(rows.encode("latin-1"))
    suite = write_suite(calibration={"dataset": "data.jsonl"})
    refused(call_here(verb, suite, "--out", tmp_path / "out"), "calibration", part)
    assert not (tmp_path / "out").exists()


def test_records_of_a_newer_schema_are_refused(
    refused: Refused, call: Call, write_suite: WriteSuite, tmp_path: Path
) -> None:
    suite, out = write_suite(), tmp_path / "out"
    plan = json.loads(call("plan", suite, "--out", out, "--json").stdout)
    record = Path(plan["cells"][0]["record"])
    record.parent.mkdir(parents=True)
    record.write_text('{"schema_version": 99}')
    for verb in (["run", suite, "--out", out], ["plan", suite, "--out", out], ["report", out]):
        refused(call(*verb), str(record), "schema_version is 99", "reads up to 8")
    assert record.read_text() == '{"schema_version": 99}'


def test_damaged_record_is_named(refused: Refused, call: Call, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "x.json").write_text('{"schema_version": 1, "mod')
    refused(call("report", tmp_path), "x.json is not a record", "remove it")


def test_report_of_a_folder_without_records_says_so(
    refused: Refused, call: Call, tmp_path: Path
) -> None:
    refused(call("report", tmp_path), "holds no records", "replaceme-bench run")


def test_output_that_is_a_file_is_refused(
    refused: Refused, call: Call, write_suite: WriteSuite, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine")
    refused(call("run", write_suite(), "--out", tmp_path / "out"), "is a file; name a folder")
    assert (tmp_path / "out").read_text() == "mine"


def test_output_that_cannot_be_written_is_refused(
    refused: Refused, call: Call, write_suite: WriteSuite
) -> None:
    refused(
        call("run", write_suite(), "--out", "/proc/replaceme"), "/proc/replaceme", "cannot be written"
    )


def test_disk_that_fills_up_ends_the_run_and_keeps_what_was_written(
    call: Call, write_suite: WriteSuite, tmp_path: Path
) -> None:
    """A limit on the size of files stands in for the disk: records fit, a checkpoint does not."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    suite, out = write_suite(), tmp_path / "out"
    result = call("run", suite, "--out", out, preexec_fn=limit)
    assert result.returncode == 2
    assert "cannot be written: File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(out.glob("checkpoints/*/*"))
    assert call("run", suite, "--out", out).returncode == 0


def test_without_vllm_quality_goes_on_and_serving_says_how_to_install_it(
    write_suite: WriteSuite, tmp_path: Path
) -> None:
    """An environment like this one, but for vLLM."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in filter(lambda name: name.endswith("site-packages"), sys.path):
        for path in Path(folder).iterdir():
            if not path.name.lower().startswith("vllm"):
                (packages / path.name).symlink_to(path)
    repository = Path(__file__).parents[2]
    serve = {"workloads": [{"input_len": 8, "output_len": 4, "batch_size": 1}]}
    out = tmp_path / "out"
    program = "from bench.cli import main; main()"
    suite = write_suite(serve=serve, prune={"layers": [2], "solvers": ["uidl"]})
    result = subprocess.run(
        [sys.executable, "-S", "-c", program, "run", str(suite), "--out", str(out)],
        env=os.environ | {"PYTHONPATH": f"{repository}:{packages}", "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 3, result.stderr
    assert "serve: vLLM is not installed: run `pip install 'replaceme[vllm]'`" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    for record in records(out):
        assert set(record["quality"]) == {"colours", "endings"}
        assert [failure["stage"] for failure in record["failures"]] == ["serve"]


def test_unknown_verb_names_the_nearest(call: Call) -> None:
    result = call("reprot", "x")
    assert result.returncode == 2
    assert "No such command 'reprot'" in result.stderr


def records(out: Path) -> list[dict[str, Any]]:
    """The records of a result folder."""
    return [json.loads(path.read_text()) for path in sorted((out / "records").glob("*.json"))]
