"""Which checkpoints a run keeps, and how it makes a removed one again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.records import Record
from bench.run.checkpoints import find_best
from bench.store import Store
from bench.suite import matrix, suite

pytestmark = pytest.mark.slow

WriteSuite = Callable[..., Path]
PRUNE = {"layers": [2, 3], "solvers": ["uidl", "lstsq", "reconstruct"]}


@pytest.fixture
def models(tiny: Path) -> dict[str, Any]:
    """A model that is cast, so that its baseline has a checkpoint as well."""
    return {"models": [{"id": str(tiny), "dtype": "bfloat16"}], "prune": PRUNE}


def checkpoints(out: Path) -> dict[str, bytes]:
    """Stem → the weights."""
    return {path.parent.name: path.read_bytes() for path in out.glob("checkpoints/*/model.safetensors")}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_times(out: Path) -> dict[str, Any]:
    parts = {"quality", "updated", "environment", "runtime"}
    return {
        stem: record.model_dump(mode="json", exclude=parts) for stem, record in Store(out).all().items()
    }


def test_all_none_or_the_best_of_each_count_are_kept(
    forked: Any, write_suite: WriteSuite, models: dict[str, Any], tmp_path: Path
) -> None:
    """One folder throughout: what is kept follows the suite, and nothing is computed again."""
    out = tmp_path / "out"
    assert forked("run", write_suite(**models), "--out", out).returncode == 0
    made, records = checkpoints(out), Store(out).all()
    assert made.keys() == records.keys()
    assert len(made) == 7
    again = forked("run", write_suite(**models, keep_checkpoints="best"), "--out", out)
    assert again.returncode == 0
    averages = {stem: average(record) for stem, record in records.items()}
    for layers in (0, 2, 3):
        group = {stem for stem, record in records.items() if record.layers == layers}
        (kept,) = group & checkpoints(out).keys()
        assert averages[kept] == max(averages[stem] for stem in group)
    assert forked("run", write_suite(**models, keep_checkpoints="none"), "--out", out).returncode == 0
    assert not [*(out / "checkpoints").iterdir()]
    assert len([*out.glob("edits/*.safetensors")]) == 6
    assert Store(out).all() == records


def average(record: Record) -> float:
    values = [task.metrics[task.primary].value for task in record.quality.values() if task.average]
    assert None not in values
    return sum(values) / len(values)  # type: ignore[arg-type]


def test_removed_checkpoint_is_made_again_without_calibrating(
    forked: Any, write_suite: WriteSuite, models: dict[str, Any], task_folder: Path, tmp_path: Path
) -> None:
    """Asked for by a task that is scored checkpoint by checkpoint; byte for byte what it was."""
    out, other = tmp_path / "out", tmp_path / "other"
    score = {"tasks": ["colours"], "include_path": str(task_folder)}
    assert forked("run", write_suite(**models, score=score), "--out", other).returncode == 0
    none = write_suite(**models, score=score, keep_checkpoints="none")
    assert forked("run", none, "--out", out).returncode == 0
    assert not checkpoints(out)
    before = without_times(out)
    score |= {"tasks": ["colours", "endings"], "method": "per-variant"}
    result = forked("run", write_suite(**models, score=score), "--out", out)
    assert result.returncode == 0, result.stdout
    assert "calibrating" not in result.stderr
    assert before == without_times(out)
    for folder in (other / "checkpoints").iterdir():
        assert contents(out / "checkpoints" / folder.name) == contents(folder)


def test_one_pass_needs_no_checkpoint(
    forked: Any, write_suite: WriteSuite, models: dict[str, Any], task_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    score = {"tasks": ["colours"], "include_path": str(task_folder)}
    none = {"keep_checkpoints": "none"} | models
    assert forked("run", write_suite(**none, score=score), "--out", out).returncode == 0
    score |= {"tasks": ["colours", "endings"]}
    suite_file = write_suite(**none, score=score)
    plan = json.loads(forked("plan", suite_file, "--out", out, "--json").stdout)
    assert plan["disk"]["bytes"] == 0
    result = forked("run", suite_file, "--out", out)
    assert result.returncode == 0
    assert "calibrating" not in result.stderr
    assert not checkpoints(out)


def test_lost_fit_is_found_again_by_calibrating(
    forked: Any, write_suite: WriteSuite, models: dict[str, Any], task_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    score = {"tasks": ["colours"], "include_path": str(task_folder)}
    assert forked("run", write_suite(**models, score=score), "--out", out).returncode == 0
    (lost,) = out.glob("edits/*3-lstsq*")
    content = lost.read_bytes()
    lost.unlink()
    score |= {"tasks": ["colours", "endings"]}
    result = forked("run", write_suite(**models, score=score), "--out", out)
    assert result.returncode == 0
    assert result.stderr.count("fitting and saving") == 1
    assert lost.read_bytes() == content


def test_checkpoint_whose_fit_is_lost_is_not_removed(
    forked: Any, write_suite: WriteSuite, models: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert forked("run", write_suite(**models), "--out", out).returncode == 0
    (lost,) = out.glob("edits/*3-lstsq*")
    lost.unlink()
    assert forked("run", write_suite(**models, keep_checkpoints="none"), "--out", out).returncode == 0
    assert [*checkpoints(out)] == [lost.stem]


def test_without_averages_all_of_a_count_are_kept(
    forked: Any, write_suite: WriteSuite, models: dict[str, Any], tmp_path: Path
) -> None:
    out, path = tmp_path / "out", write_suite(**models)
    assert forked("run", path, "--out", out).returncode == 0
    plan = matrix.expand(suite.load(path))
    records = {cell: Store(out).read(cell.stem) for cell in plan.cells}
    for cell, record in records.items():
        assert record
        if cell.layers == 3:
            record.quality = {}
    kept = {cell.name for cell in find_best(records)}  # type: ignore[arg-type]
    assert {"tiny/baseline", "tiny/3/uidl", "tiny/3/lstsq", "tiny/3/reconstruct"} < kept
    assert len(kept) == 5


def test_fewer_kept_checkpoints_need_less_disk(
    call_here: Callable[..., Any],
    write_suite: WriteSuite,
    save_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    names = [str(save_model(tmp_path / name)) for name in ("one", "two", "three")]

    def needed(keep: str) -> int:
        path = write_suite(models=names, prune=PRUNE, keep_checkpoints=keep)
        plan = call_here("plan", path, "--out", tmp_path / "out", "--json")
        size: int = json.loads(plan.stdout)["disk"]["bytes"]
        return size

    all_of_them, best_ones, none = needed("all"), needed("best"), needed("none")
    assert none < best_ones < all_of_them
    whole = (tmp_path / "one" / "model.safetensors").stat().st_size
    # six variants of each model without 2 or 3 of 8 layers; all at once, or of one model at a time
    assert 3 * 6 * 0.6 * whole < all_of_them < 3 * 6 * 0.9 * whole
    assert 6 * 0.6 * whole < none < 6 * 1.1 * whole


def test_baseline_is_written_where_its_folder_holds_other_weights(
    forked: Any, write_suite: WriteSuite, tiny: Path, tmp_path: Path
) -> None:
    """vLLM reads every .safetensors file of a folder, or those of an index; transformers one."""
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(tiny, source)
    shutil.copy(source / "model.safetensors", source / "consolidated.safetensors")
    suite_file = write_suite(models=[str(source)], prune={"layers": [2], "solvers": ["uidl"]})
    done = forked("run", suite_file, "--out", out)
    assert done.returncode == 0
    assert "source: Left behind, as not the model's: consolidated.safetensors." in done.stderr
    (baseline,) = (found for name, found in checkpoints(out).items() if "baseline" in name)
    assert baseline == (source / "model.safetensors").read_bytes()
    assert not [*out.glob("checkpoints/*/consolidated*")]
