"""Healing in a suite: a stage of its cells, and the verb."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import repeat
from bench.leaderboard import leaderboard
from bench.page.drawer import drawers
from bench.plots import SCREEN, figures
from bench.records import Record
from bench.store import Store
from bench.suite import matrix, suite
from replaceme.amounts import format_bytes
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError
from replaceme.healing import HealSettings, Training
from replaceme.healing.need import Sizes
from replaceme.io.editfile import load_edit
from replaceme.selection import Block

Call = Callable[..., subprocess.CompletedProcess[str]]
WriteSuite = Callable[..., Path]
HEAL = {"tokens": 3000, "learning_rate": 3e-3, "batch_size": 4}
SOLVERS = ["lstsq", {"name": "lstsq", "heal": HEAL, "as": "healed"}]
WHOLE = {"name": "lstsq", "heal": HEAL | {"train": "all"}, "as": "whole"}


def cells(path: Path) -> dict[str, matrix.Cell]:
    return {cell.label: cell for cell in matrix.expand(suite.load(path)).cells}


# ---- the suite


def test_healed_cell_goes_on_from_the_pruned_one(write_suite: WriteSuite) -> None:
    found = cells(write_suite(prune={"layers": [2], "solvers": SOLVERS}))
    plain, healed = found["lstsq"], found["healed"]
    assert (plain.heal, healed.heal) == (None, HealSettings(**HEAL))
    assert healed.identity.recipe[:1] == plain.identity.recipe
    assert [step.kind for step in healed.identity.recipe] == ["prune", "heal"]
    assert healed.pruned.stem == plain.stem != healed.stem
    assert plain.pruned is plain
    assert healed.identity.recipe[1].words() == "healed (mlp) on 3,000 tokens"


def test_objective_stands_in_identity_and_words_where_it_is_not_the_usual(
    write_suite: WriteSuite, tmp_path: Path
) -> None:
    (tmp_path / "chat.jsonl").write_text('{"q": "Snow is", "a": " white."}\n' * 30)
    heal = {"objective": "sft", "dataset": "./chat.jsonl", "prompt": "q", "column": "a", "tokens": "2M"}
    solvers = [*SOLVERS, {"name": "lstsq", "heal": heal, "as": "sft"}]
    found = cells(write_suite(prune={"layers": [2], "solvers": solvers}))
    step = found["sft"].identity.heal
    assert step and step.words() == "healed (sft, lora) on 2,000,000 tokens"
    published = {"learning_rate": 2e-5, "rank": 16, "dropout": 0.05, "train": "lora"}
    assert step.training.items() >= (published | {"objective": "sft", "prompt": "q"}).items()
    usual = found["healed"].identity.heal
    assert usual and not usual.training.keys() & {"objective", "dropout", "prompt", "packing"}
    again = HealSettings(**step.training, dataset="chat.jsonl", column="a")
    assert again.parameters() == step.training


CHANGES: list[dict[str, Any]] = [
    {"tokens": "3k", "train": "all"},
    {"tokens": 3001},
    {"seconds": 5},
    {"learning_rate": 1e-4},
    {"norms": True},
    {"batch_size": 16},
    {"seed": 1},
    {"dataset": "builtin:prose"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_what_changes_the_training_changes_the_identity(
    change: dict[str, Any], write_suite: WriteSuite
) -> None:
    def identity(heal: dict[str, Any]) -> str:
        solver = {"name": "lstsq", "heal": heal, "as": "healed"}
        path = write_suite(prune={"layers": [2], "solvers": [solver]})
        return str(cells(path)["healed"].identity.digest)

    settings = {"tokens": "3k"}
    if "seconds" in change:
        assert identity(change) != identity(settings)
    else:
        assert identity(settings | change) != identity(settings)
    assert identity({"tokens": 3000, "accumulate": 2, "checkpointing": True}) == identity(settings)


def test_training_is_scored_along_the_way_as_variants_of_its_own(write_suite: WriteSuite) -> None:
    heal = HEAL | {"score_at": ["2k", 500]}
    solver = {"name": "lstsq", "heal": heal, "as": "healed"}
    found = cells(write_suite(prune={"layers": [2], "solvers": [solver]}))
    assert [*found] == ["baseline", "healed at 500", "healed at 2k", "healed"]
    assert [cell.heal.until for cell in found.values() if cell.heal] == [500, 2000, None]
    alone = cells(write_suite(prune={"layers": [2], "solvers": [solver | {"heal": HEAL}]}))["healed"]
    assert found["healed"].identity == alone.identity
    assert {cell.trained.stem for cell in found.values() if cell.heal} == {alone.stem}
    assert found["healed at 2k"].identity.recipe[1].words() == "healed (mlp) on 2,000 of 3,000 tokens"


@pytest.mark.parametrize(
    ("heal", "said"),
    [
        (
            {"score_at": [300_000]},
            "'score_at' lies within 'tokens'; 300,000 is not before the end of the",
        ),
        ({"score_at": [100, "0.1k"]}, "'score_at' names a number of tokens twice"),
        ({"seconds": 5, "score_at": [10]}, "10 is not before the end of the 'seconds'"),
        ({"until": 10, "score_at": [10]}, "give either 'until' or 'score_at'"),
        ({"tokens": "lots"}, r"heal\.tokens: 'lots' is no number of tokens"),
        ({"token": 3}, r"heal\.token: unknown key; did you mean 'tokens'\?"),
        ({"rank": 3}, "'rank' belongs to 'train: lora'"),
        ({"dataset": "./no.jsonl"}, "no such file"),
        ({"packing": True}, "'packing' belongs to 'objective: sft'"),
        ({"loss_on_prompts": True}, "'loss_on_prompts' belongs to 'objective: sft'"),
        ({"prompt": "q"}, "'prompt' belongs to 'objective: sft'"),
        ({"train": "lora", "dropout": 0.1}, "'dropout' belongs to 'objective: sft'"),
        ({"objective": "sft", "train": "all", "dropout": 0.1}, "'dropout' belongs to 'train: lora'"),
        ({"objective": "sft", "accumulate": 3}, "8 sequences cannot be split into 3 equal forwards"),
        (
            {"objective": "sft", "prompt": "q"},
            "'prompt' names a column of 'dataset', which is not given",
        ),
        (
            {"objective": "sft", "prompt": "q", "dataset": "builtin:prose"},
            "'builtin:prose' is a text without columns",
        ),
        ({"objective": "rl"}, "heal.objective"),
    ],
)
def test_wrong_settings_are_refused_with_their_place(
    heal: dict[str, Any], said: str, write_suite: WriteSuite
) -> None:
    solver = {"name": "lstsq", "heal": heal}
    with pytest.raises(InputError, match=said):
        suite.load(write_suite(prune={"layers": [2], "solvers": [solver]}))


def test_text_is_found_from_the_suite(write_suite: WriteSuite, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("Some words. " * 2000)
    solver = {"name": "lstsq", "heal": {"dataset": "./own.txt"}}
    path = write_suite(prune={"layers": [2], "solvers": ["lstsq", solver]})
    found = cells(path)["lstsq-healed"]
    assert found.heal and found.heal.dataset == str(tmp_path / "own.txt")
    assert found.identity.heal and found.identity.heal.text and found.identity.heal.text.data


# ---- a run

Finished = tuple[Path, Path, dict[str, Record]]


@pytest.fixture(scope="module")
def finished(
    call_here: Call, small_suite: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """A suite with a healed cell, its result folder and its records; not to be changed."""
    folder = tmp_path_factory.mktemp("healed")
    path = folder / "suite.yaml"
    changes = {
        "prune": {"layers": [2], "solvers": [*SOLVERS, WHOLE]},
        "calibration": {"samples": 100, "max_length": 32},
    }
    path.write_text(yaml.safe_dump(small_suite | changes))
    result = call_here("run", path, "--out", folder / "out")
    assert result.returncode == 0, result.stderr
    return path, folder / "out", by_label(folder / "out")


def by_label(out: Path) -> dict[str, Record]:
    return {record.label: record for record in Store(out).all().values()}


def checkpoint_of(out: Path, label: str) -> Path:
    (stem,) = (stem for stem, record in Store(out).all().items() if record.label == label)
    return out / "checkpoints" / stem


@pytest.mark.slow
def test_run_heals_a_cell_and_scores_it_in_the_same_pass(finished: Finished) -> None:
    _, out, records = finished
    plain, healed = records["lstsq"], records["healed"]
    assert {record.status for record in records.values()} == {"complete"}
    assert plain.heal is None
    assert plain.prune and healed.prune and healed.heal and healed.heal.loss
    assert healed.prune == plain.prune
    assert healed.heal.loss[0] == pytest.approx(plain.prune.loss[1], abs=1e-4)
    assert healed.heal.loss[1] < healed.heal.loss[0]
    assert healed.heal.divergence[0] == pytest.approx(plain.prune.divergence.mean, abs=1e-4)
    assert healed.heal.divergence[1] < healed.heal.divergence[0]
    assert healed.quality["colours"].method == "one-pass"
    assert healed.quality["colours"].pass_variants == 4
    assert healed.quality["endings"].metrics != plain.quality["endings"].metrics
    assert not [*(out / "healing").glob("*")]
    edits = {file.stem: load_edit(file)[0] for file in (out / "edits").iterdir()}
    trained, whole = sorted(
        (edit for edit in edits.values() if not edit.transforms), key=lambda edit: len(edit.weights)
    )
    assert len(edits) == 3
    assert {name for _, name in trained.weights} == {"mlp.down_proj.weight"}
    assert (trained.outside, whole.outside.keys()) == ({}, {"model.norm.weight", "lm_head.weight"})


@pytest.mark.slow
def test_one_pass_scores_another_head_as_its_checkpoint_does(
    finished: Finished, call_here: Call
) -> None:
    path, out, records = finished
    assert records["whole"].quality["colours"].method == "one-pass"
    result = call_here("verify", path, "--out", out, "--cell", "tiny/2/whole")
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_leaderboard_and_page_tell_what_was_trained(finished: Finished) -> None:
    records = finished[2]
    table = leaderboard.build([*records.values()])
    assert [c.key for c in table.columns].count("training_free") == 1
    rows = {row.label: row.values for row in table.rows}
    free = {label: values["training_free"].text for label, values in rows.items()}
    assert free == {"baseline": None, "lstsq": "yes", "healed": "no", "whole": "no"}
    assert records["healed"].heal
    assert rows["healed"]["trained_tokens"].number == records["healed"].heal.tokens / 1e3
    assert rows["lstsq"]["trained_tokens"].number is None
    assert rows["healed"]["loss"].number == records["healed"].heal.loss[1]
    without = leaderboard.build([records["baseline"], records["lstsq"]])
    assert "training_free" not in [column.key for column in without.columns]
    (drawer,) = drawers([records["healed"]]).values()
    assert drawer.title.startswith("healed, 2 layers removed, healed (mlp) on 3,000 tokens")
    assert "How it was healed" in [section.title for section in drawer.sections]


@pytest.mark.slow
def test_pick_leaves_out_what_was_trained_if_asked(finished: Finished, call_here: Call) -> None:
    asked = ("pick", finished[1], "--prefer", "quality", "--json")
    plain = call_here(*asked, "--training-free")
    assert "lstsq" in plain.stdout
    assert "healed" not in plain.stdout
    assert "healed" in call_here(*asked).stdout


@pytest.mark.slow
def test_commands_of_a_record_make_its_checkpoint_again(
    finished: Finished, call_here: Call, tmp_path: Path
) -> None:
    import shlex

    prune, heal, _ = repeat.commands(finished[2]["healed"])
    assert heal.startswith("replaceme-bench heal PRUNED --teacher")
    folders = {"PRUNED": str(tmp_path / "pruned"), "HEALED": str(tmp_path / "healed")}
    for command in (prune, heal):
        words = [folders.get(word, word) for word in shlex.split(command)[1:]]
        result = call_here(*words)
        assert result.returncode == 0, result.stderr
    checkpoint = checkpoint_of(finished[1], "healed")
    one, two = (f / "model.safetensors" for f in (checkpoint, tmp_path / "healed"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_fine_tuned_cell_says_so_and_is_made_again_by_its_commands(
    call_here: Call, small_suite: dict[str, Any], tmp_path: Path
) -> None:
    import shlex

    pytest.importorskip("replaceme.healing.from_trl", exc_type=ImportError)
    rows = [{"q": f"Number {i} and 1 is", "a": f" {i + 1}."} for i in range(300)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    heal = {"objective": "sft", "dataset": "./sums.jsonl", "prompt": "q", "column": "a"}
    heal |= {"tokens": 3000, "learning_rate": 3e-3, "batch_size": 4}
    changes = {
        "prune": {"layers": [2], "solvers": [{"name": "lstsq", "heal": heal, "as": "sft"}]},
        "calibration": {"samples": 100, "max_length": 32},
    }
    path, out = tmp_path / "suite.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(small_suite | changes))
    result = call_here("run", path, "--out", out)
    assert result.returncode == 0, result.stderr
    record = by_label(out)["sft"]
    assert record.status == "complete"
    assert record.heal and record.heal.used and record.heal.cross_entropy
    assert (record.heal.objective, record.divergence, record.loss) == ("sft", None, None)
    (drawer,) = drawers([record]).values()
    assert "healed (sft, lora) on 3,000 tokens" in drawer.title
    (section,) = (part for part in drawer.sections if part.title == "How it was healed")
    assert dict(section.facts)["objective"] == "sft"
    assert "cross entropy, held back" in section.columns
    prune, again, _ = repeat.commands(record)
    assert "--objective sft" in again and "--prompt q" in again
    named = {"PRUNED": "pruned", "HEALED": "healed", "calibration.jsonl": "sums.jsonl"}
    for command in (prune, again):
        words = [str(tmp_path / named[w]) if w in named else w for w in shlex.split(command)[1:]]
        result = call_here(*words)
        assert result.returncode == 0, result.stderr
    one, two = (f / "model.safetensors" for f in (checkpoint_of(out, "sft"), tmp_path / "healed"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_same_command_again_does_nothing_and_what_is_lost_is_made_again(
    finished: Finished, call_here: Call, tmp_path: Path
) -> None:
    path, out, _ = finished
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    checkpoint = checkpoint_of(copy, "healed")
    before = (checkpoint / "model.safetensors").read_bytes()
    shutil.rmtree(copy / "checkpoints")
    shutil.rmtree(copy / "edits")
    for stem, record in Store(copy).all().items():
        if record.label == "healed":
            del record.quality["endings"]
            Store(copy).write(stem, record)
    result = call_here("run", path, "--out", copy, "--only", "*/healed")
    assert result.returncode == 0, result.stderr
    assert (checkpoint / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_run_scores_a_training_along_the_way(
    finished: Finished, call_here: Call, tmp_path: Path
) -> None:
    path, _, records = finished
    told = yaml.safe_load(path.read_text())
    heal = HEAL | {"score_at": [1000, 2000]}
    told["prune"]["solvers"] = [{"name": "lstsq", "heal": heal, "as": "healed"}]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(told))
    result = call_here("run", tmp_path / "suite.yaml", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    found = by_label(tmp_path / "out")
    trained = {label: record.heal.tokens for label, record in found.items() if record.heal}
    whole = records["healed"]
    assert whole.heal and whole.heal.tokens == trained["healed"]
    assert (trained["healed at 1k"], trained["healed at 2k"]) == (7 * 128, 15 * 128)
    assert found["healed"].quality["endings"].metrics == whole.quality["endings"].metrics
    assert not [*(tmp_path / "out" / "healing").glob("*")]
    chart = next(figure for figure in figures(found.values(), SCREEN) if "training" in figure.name)
    assert [row[2] for row in chart.rows] == [f"{tokens:,}" for tokens in sorted(trained.values())]


@pytest.mark.slow
def test_healing_that_fails_is_a_row_with_its_reason(
    call_here: Call, small_suite: dict[str, Any], tmp_path: Path
) -> None:
    solver = {"name": "lstsq", "heal": {"tokens": 10}, "as": "healed"}
    path = tmp_path / "suite.yaml"
    path.write_text(
        yaml.safe_dump(small_suite | {"prune": {"layers": [2], "solvers": ["lstsq", solver]}})
    )
    result = call_here("run", path, "--out", tmp_path / "out")
    assert result.returncode == 3
    records = by_label(tmp_path / "out")
    (failure,) = records["healed"].failures
    assert failure.stage == "heal"
    assert "tokens: 10 are fewer than one step" in failure.error
    assert records["lstsq"].status == "complete"
    assert not records["healed"].quality


@pytest.mark.slow
def test_plan_names_the_stage(call_here: Call, write_suite: WriteSuite, tmp_path: Path) -> None:
    path = write_suite(prune={"layers": [2], "solvers": SOLVERS})
    lines = call_here("plan", path, "--out", tmp_path / "out").stdout.splitlines()
    assert any("prune, heal, score:colours" in line for line in lines if "healed" in line)


# ---- the memory


def test_plan_says_what_healing_takes_of_its_device(
    write_suite: WriteSuite, forked: Any, tiny: Path, tmp_path: Path
) -> None:
    path = write_suite(prune={"layers": [2], "solvers": [*SOLVERS, WHOLE]})
    needed = json.loads(forked("plan", path, "--out", tmp_path, "--json").stdout)["healing_memory"]
    sizes = Sizes.of(Checkpoint.open(str(tiny)))
    longest = suite.load(path).calibration.max_length
    whole = Training(train="all", **{k: v for k, v in HEAL.items() if k != "learning_rate"})
    assert needed == {
        "tiny": sizes.compute_need(whole, longest, (Block(1, 3),), half=False, device="cpu").whole
    }
    told = forked("plan", path, "--out", tmp_path).stdout
    assert f"Healing tiny takes up to {format_bytes(needed['tiny'])} of its device's memory." in told
    without = write_suite(prune={"layers": [2], "solvers": ["lstsq"]})
    assert "Healing" not in forked("plan", without, "--out", tmp_path).stdout
