"""What a checkpoint and a file of fitted values say about where they come from."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import replaceme
from replaceme.calibration import Batches, CalibrationData, load_sequences
from replaceme.edit import Edit
from replaceme.errors import InputError, OutputError
from replaceme.io.editfile import load_edit, save_edit
from replaceme.io.models import fingerprint
from replaceme.provenance import Provenance
from replaceme.selection import Block
from replaceme.selectors import Selection
from replaceme.solvers import make_solver
from replaceme.surgery import write_checkpoint

DATA = CalibrationData(samples=30, max_length=32)
SOLVERS: dict[str, dict[str, Any]] = {
    "uidl": {},
    "lstsq": {"ridge": 0.25},
    "refit": {"ridge": 0.05},
    "reconstruct": {},
}
SOME = Provenance(
    model="x",
    weights="y",
    blocks=[(1, 2)],
    selector=None,
    runner_up=None,
    solver={"name": "uidl", "version": 1, "parameters": {}},
    calibration={"dataset": "z", "tokens": 1},
    relative_error=(0.5, 0.5),
    mean_cosine=(0.5, 0.5),
    loss=None,
    intact_loss=None,
    warning=None,
)


def made(tiny: Path, solver: str, count: int = 4, **changes: Any) -> tuple[Edit, Provenance, Any]:
    """Fitted to the small checkpoint, with what there is to say about it."""
    from replaceme.io.loading import load

    chosen = make_solver(solver, **SOLVERS[solver])
    model, tokenizer = load(tiny)
    calibration = replaceme.calibrate(
        model,
        Batches(load_sequences(DATA, tokenizer)),
        counts=[count],
        solvers=[chosen],
        selection=Selection("angular-mean", num_blocks=2),
    )
    choice = calibration.choices[count]
    fit = replaceme.fit(chosen, calibration, choice.blocks)
    text = DATA.model_dump() | {"fingerprint": DATA.fingerprint(), "tokens": calibration.tokens}
    weights = fingerprint(str(tiny))
    said = Provenance.of(
        fit.model_copy(update=changes),
        model="org/tiny",
        weights=weights,
        solver=chosen,
        calibration=text,
        selector="angular-mean",
        choice=choice,
    )
    return fit.edit, said, (fit, choice, calibration)


@pytest.fixture(scope="module", params=SOLVERS)
def solver(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def fitted(tiny: Path, solver: str) -> tuple[Edit, Provenance, Any]:
    return made(tiny, solver)


@pytest.fixture(scope="module")
def folder(
    tiny: Path, fitted: tuple[Edit, Provenance, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "out"
    write_checkpoint(tiny, out, fitted[0], fitted[1])
    return out


# beside the weights


def test_json_says_what_was_removed_how_and_from_which_model(
    tiny: Path, solver: str, fitted: tuple[Edit, Provenance, Any], folder: Path
) -> None:
    said = json.loads((folder / "replaceme.json").read_text("utf-8"))
    fit, choice, calibration = fitted[2]
    assert said["model"] == "org/tiny"
    assert said["weights"] == fingerprint(str(tiny))
    assert said["blocks"] == [[b.start, b.end] for b in fit.edit.blocks]
    assert sum(end - start for start, end in said["blocks"]) == 4
    assert said["selector"] == "angular-mean"
    assert said["runner_up"] == [[b.start, b.end] for b in choice.runner_up]
    assert said["solver"]["name"] == solver
    assert said["solver"]["parameters"] == make_solver(solver, **SOLVERS[solver]).model_dump(mode="json")
    assert said["calibration"]["dataset"] == "builtin:prose"
    assert said["calibration"]["tokens"] == calibration.tokens
    assert said["calibration"]["fingerprint"] == DATA.fingerprint()
    assert tuple(said["relative_error"]) == fit.relative_error
    assert tuple(said["mean_cosine"]) == fit.mean_cosine
    assert tuple(said["loss"]) == fit.loss
    assert said["intact_loss"] == fit.intact_loss
    assert said["warning"] == fit.warning
    assert said["notes"] == fit.notes
    assert bool(fit.notes) == (solver != "uidl")
    assert said["versions"]["torch"] == metadata.version("torch")
    assert said["versions"].keys() >= {"replaceme", "torch", "transformers"}
    assert Provenance.model_validate(said) == fitted[1]


def test_model_card_tells_it_with_the_numbers(
    solver: str, fitted: tuple[Edit, Provenance, Any], folder: Path
) -> None:
    card = (folder / "README.md").read_text("utf-8")
    fit, _, calibration = fitted[2]
    head, text = card.split("---\n")[1:3]
    assert "library_name: transformers\nbase_model: org/tiny\n" in head
    assert "# org/tiny with 4 decoder layers less" in text
    removed = ", ".join(str(block) for block in fit.edit.blocks)
    assert f"Layers {removed} (0-based, the end stays) were removed" in text
    assert f"`{solver}`" in text
    assert all(f"{key} {value}" in text for key, value in SOLVERS[solver].items())
    assert f"{calibration.tokens:,} tokens of `builtin:prose`" in text
    losses = " | ".join(f"{loss:.3f}" for loss in (fit.intact_loss, *fit.loss))
    assert f"| loss, nats per held-back token | {losses} |" in text
    errors = " | ".join(f"{error:.3f}" for error in (0.0, *fit.relative_error))
    assert f"| {errors} |" in text
    cosines = " | ".join(f"{cosine:.3f}" for cosine in (1.0, *fit.mean_cosine))
    assert f"| {cosines} |" in text
    assert ("**Warning:**" in text) == (fit.warning is not None)


def test_warning_is_in_the_card_and_what_is_unknown_is_left_out(tiny: Path) -> None:
    _, said, _ = made(tiny, "lstsq", loss=None, intact_loss=None, warning="it is broken")
    card = said.card()
    assert "**Warning:** it is broken." in card
    assert "held-back" not in card


@pytest.mark.parametrize("name", ["./model", "/models/x", "~/x", "package:some/x.gguf"])
def test_local_model_is_no_base_model_of_the_card(
    fitted: tuple[Edit, Provenance, Any], name: str
) -> None:
    card = fitted[1].model_copy(update={"model": name}).card()
    assert "base_model" not in card
    assert f"# {name} with" in card


def test_card_of_the_intact_model_is_replaced(tiny: Path, tmp_path: Path) -> None:
    edit, said, _ = made(tiny, "uidl")
    source = tmp_path / "source"
    write_checkpoint(tiny, source, Edit(), None)
    (source / "README.md").write_text("the intact model's")
    write_checkpoint(source, tmp_path / "without", edit, None)
    assert (tmp_path / "without" / "README.md").read_text() == "the intact model's"
    assert not (tmp_path / "without" / "replaceme.json").exists()
    write_checkpoint(source, tmp_path / "out", edit, said)
    assert (tmp_path / "out" / "README.md").read_text("utf-8") == said.card()


def test_notes_that_are_not_finite_are_null(tiny: Path, tmp_path: Path) -> None:
    said = SOME.model_copy(update={"notes": {"condition": float("inf")}})
    write_checkpoint(tiny, tmp_path / "out", Edit((Block(1, 2),)), said)
    again = json.loads((tmp_path / "out" / "replaceme.json").read_text("utf-8"))
    assert again["notes"] == {"condition": None}


def test_given_blocks_have_no_selector(fitted: tuple[Edit, Provenance, Any]) -> None:
    text, solver = {"dataset": "z", "tokens": 1}, make_solver("uidl")
    said = Provenance.of(fitted[2][0], model="x", weights="y", solver=solver, calibration=text)
    assert said.selector is said.runner_up is None


def test_warning_of_the_fit_is_kept_where_the_edit_goes_to_another_model() -> None:
    said = SOME.model_copy(update={"warning": "its loss is worse"}).elsewhere("z", "w")
    assert "other weights, those of x," in said.card()
    assert "; where it was fitted, its loss is worse." in said.card()
    assert Provenance.model_validate_json(said.model_dump_json()) == said


# a file of what was fitted


def test_saved_edit_is_read_as_it_was(fitted: tuple[Edit, Provenance, Any], tmp_path: Path) -> None:
    edit, said, _ = fitted
    path = tmp_path / "new" / "edit.safetensors"
    save_edit(path, edit, said)
    again, again_said = load_edit(path)
    assert again_said == said
    assert again.blocks == edit.blocks
    assert all(isinstance(block, Block) for block in again.blocks)
    for one, other in ((again.transforms, edit.transforms), (again.weights, edit.weights)):
        assert one.keys() == other.keys()
        for key, values in one.items():  # type: ignore[attr-defined]
            assert values.dtype == other[key].dtype  # type: ignore[index]
            assert torch.equal(values, other[key])  # type: ignore[index]
    assert [file.name for file in path.parent.iterdir()] == ["edit.safetensors"]


def test_edit_of_a_model_whose_loss_is_no_number_is_read_again(
    fitted: tuple[Edit, Provenance, Any], tmp_path: Path
) -> None:
    edit, said, _ = fitted
    path, nan = tmp_path / "edit.safetensors", float("nan")
    save_edit(path, edit, said.model_copy(update={"loss": (nan, nan), "intact_loss": nan}))
    assert load_edit(path)[1] == said.model_copy(update={"loss": (None, None), "intact_loss": None})


def test_checkpoint_of_a_saved_edit_is_that_of_the_edit(
    tiny: Path, fitted: tuple[Edit, Provenance, Any], folder: Path, tmp_path: Path
) -> None:
    save_edit(tmp_path / "edit.safetensors", *fitted[:2])
    write_checkpoint(tiny, tmp_path / "out", *load_edit(tmp_path / "edit.safetensors"))
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == files


@pytest.mark.parametrize("name", ["t.pth", "t.pt", "t.bin", "t.pkl"])
def test_pickle_is_refused_without_being_read(tmp_path: Path, name: str) -> None:
    """Saying why; whether there is such a file does not matter."""
    message = "is a pickle, which can run code when it is read; give the .safetensors file that"
    with pytest.raises(InputError, match=message):
        load_edit(tmp_path / name)
    (tmp_path / name).write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match=message):
        load_edit(tmp_path / name)


def write_checkpoint_tensors(path: Path, source: Path) -> None:
    save_file(load_file(source / "model.safetensors"), path, metadata={"format": "pt"})


def write_foreign_metadata(path: Path, source: Path) -> None:  # noqa: ARG001
    save_file({"transform.1": torch.eye(3)}, path, metadata={"replaceme": '{"model": "x"}'})


def write_text(path: Path, source: Path) -> None:  # noqa: ARG001
    path.write_text("not a tensor file")


def write_nothing(path: Path, source: Path) -> None:  # noqa: ARG001
    path.touch()


def make_folder(path: Path, source: Path) -> None:  # noqa: ARG001
    path.mkdir()


@pytest.mark.parametrize(
    "write",
    [write_checkpoint_tensors, write_foreign_metadata, write_text, write_nothing, make_folder],
)
def test_foreign_file_is_refused(tiny: Path, tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "t.safetensors"
    write(path, tiny)
    with pytest.raises(InputError, match=r"is not a file that 'prune --transform-only' wrote") as error:
        load_edit(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["bias.1", "transform.one", "weight"])
def test_file_with_other_tensors_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.safetensors"
    save_file({name: torch.eye(3)}, path, metadata={"replaceme": SOME.model_dump_json()})
    with pytest.raises(InputError, match=r"is not a file that 'prune --transform-only' wrote"):
        load_edit(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors: no such file\."):
        load_edit(tmp_path / "none.safetensors")


def test_edit_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    """Below a file, and on a full disk."""
    edit = Edit((Block(1, 2),), {0: torch.eye(64, dtype=torch.float64)})
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file" / "edit.safetensors", tmp_path / "edit.safetensors"):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
        try:
            with pytest.raises(OutputError, match=r"edit\.safetensors cannot be written: .+\."):
                save_edit(path, edit, SOME)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"
