"""Recipes: what they say, their canonical form, and what a new step takes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from bench import repeat
from bench.page.drawer import drawers
from bench.store import Store, read_record
from replaceme.recipe import STEPS, Identity, PruneStep, Step, digest
from tests.bench import cells

DEMO = Path(__file__).parents[1] / "bench" / "samples" / "demo" / "records"


class Rounding(Step):
    """A step as somebody would add it."""

    kind: ClassVar[str] = "rounding"
    bits: int

    def settings(self) -> dict[str, Any]:
        return {"bits": self.bits}

    def words(self) -> str:
        return f"rounded to {self.bits} bits"


def test_files_of_earlier_releases_bear_the_hash_of_what_is_read_from_them() -> None:
    paths = sorted(DEMO.glob("*.json"))
    assert len(paths) > 10
    for path in paths:
        flat = json.loads(path.read_text())
        identity = read_record(path).identity
        if flat["schema_version"] < 6:
            assert identity.canonical() == flat["identity"]
        text = json.dumps(identity.canonical(), sort_keys=True, ensure_ascii=False)
        assert path.stem.endswith(hashlib.sha256(text.encode()).hexdigest()[:8])


def test_each_step_counts_and_so_does_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "rounding", Rounding)
    intact = cells.cell("lstsq", 2, {}).identity.model_copy(update={"recipe": ()})
    prune = cells.cell("lstsq", 2, {}).identity.recipe[0]
    made = [
        intact,
        intact.after(prune),
        intact.after(Rounding(bits=4)),
        intact.after(prune, Rounding(bits=4)),
        intact.after(prune, Rounding(bits=8)),
        intact.after(Rounding(bits=4), prune),
    ]
    assert len({digest(identity.canonical()) for identity in made}) == len(set(made)) == len(made)
    assert intact.after(prune).after(Rounding(bits=4)) == made[3]


def test_new_step_is_one_class_and_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = cells.cell("lstsq", 2, {"a": 0.5})
    record.identity = record.identity.after(Rounding(bits=4))
    store = Store(tmp_path)
    store.write("cell", record)
    with pytest.raises(Exception, match=r"identity\.recipe\.1: .*'rounding' is no kind of step.*prune"):
        store.read("cell")
    monkeypatch.setitem(STEPS, "rounding", Rounding)
    again = store.read("cell")
    assert again
    assert again.identity == record.identity
    assert isinstance(again.identity.prune, PruneStep)
    (drawer,) = drawers([again]).values()
    assert drawer.title == "lstsq, 2 layers removed, rounded to 4 bits"
    assert "--bits 4" in repeat.commands(again)[0]


@pytest.mark.parametrize(
    "step", [{}, {"kind": None}, {"kind": "prune"}, {"kind": "prune", "layers": 2, "solvr": {}}]
)
def test_what_is_no_step_is_refused(step: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Identity.model_validate({"recipe": [step]})


def test_what_was_not_said_is_not_written() -> None:
    said = {"model": {"weights": "x"}, "recipe": []}
    assert json.loads(Identity.model_validate(said).model_dump_json()) == said
