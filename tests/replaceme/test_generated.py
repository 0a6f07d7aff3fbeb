"""Text that the model writes itself, as a data set: what can be said of it, and prompts to answer."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from replaceme.calibration import CalibrationData, Generated, check_data, read_prompts, read_text
from replaceme.errors import InputError
from replaceme.healing import HealSettings
from replaceme.options import PruneOptions
from replaceme.recipe import CalibrationSettings

CHAT = [
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "There."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "Because."},
]


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("schema", [CalibrationData, HealSettings])
def test_generated_is_said_in_two_ways(schema: Any) -> None:
    plain, told = schema(dataset="generated"), schema(generated={})
    assert plain == told
    assert (plain.dataset, plain.generated) == ("generated", Generated())
    assert schema(generated={"tokens": "2k"}).generated.tokens == 2000
    assert schema(dataset="a.csv", generated={"seed": 1}).dataset == "a.csv"


def test_what_is_written_is_known_by_its_settings_alone() -> None:
    usual = CalibrationData(dataset="generated")
    for same in ({"samples": 5}, {"seed": 7}):
        assert CalibrationData(dataset="generated", **same).writing() == usual.writing()
    other = [{"tokens": 5}, {"temperature": 0.5}, {"top_p": 0.9}, {"seed": 1}]
    texts = [CalibrationData(generated=said).writing() for said in other]
    texts.append(CalibrationData(dataset="generated", max_length=64).writing())
    assert all(text != usual.writing() for text in texts)


def test_answers_are_known_by_their_prompts_too(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"text": "Why?"}])
    before = CalibrationData(dataset=str(file), generated=Generated()).writing()
    assert CalibrationData(dataset=str(file), generated=Generated(), samples=5).writing() != before
    write_rows(file, [{"text": "How?"}])
    assert CalibrationData(dataset=str(file), generated=Generated()).writing() != before


def test_identity_of_other_data_says_nothing_of_it() -> None:
    assert "generated" not in CalibrationData().identity()
    found = CalibrationSettings.model_validate(CalibrationData(dataset="generated").identity())
    assert (found.name, found.hub, found.generated) == ("generated", None, Generated())


def test_text_is_read_from_its_file_and_described_by_its_settings(
    tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"text": "Some words."}, {"text": CHAT}]
    file = write_rows(tmp_path / "own.jsonl", rows)
    data = CalibrationData(generated={"tokens": 99}, max_length=64)
    text = read_text(data.written(file), tokenizer)
    plain = read_text(CalibrationData(dataset=str(file), max_length=64), tokenizer)
    assert text.sequences == plain.sequences
    assert len(text.sequences) == 2
    described = text.describe()
    assert described["dataset"] == described["fingerprint"] == "generated"
    assert described["generated"] == {"tokens": 99, "temperature": 1.0, "top_p": 1.0, "seed": 42}
    assert "generated" not in plain.describe()


def test_text_that_is_not_written_is_refused_with_what_writes_it(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="replaceme-bench generate MODEL --out FILE"):
        read_text(CalibrationData(dataset="generated"), tokenizer)
    with pytest.raises(ValidationError, match="replaceme-bench generate MODEL --out FILE"):
        PruneOptions(model="m", out="o", layers=1, calibration="generated")


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"tokens": 0}, "greater than 0"),
        ({"tokens": "many"}, "'many' is no number of tokens"),
        ({"temperature": 0}, "greater than 0"),
        ({"top_p": 1.5}, "less than or equal to 1"),
        ({"column": "text"}, "Extra inputs"),
    ],
)
def test_wrong_settings_are_refused(said: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        CalibrationData(generated=said)


def test_prompts_need_rows_and_their_column(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Some words. " * 100)
    file = write_rows(tmp_path / "a.jsonl", [{"question": "Why?"}])
    for name, wrong in (
        (str(tmp_path / "a.txt"), "has no rows that could be prompts"),
        ("builtin:prose", "has no rows that could be prompts"),
        (str(file), r"has no column 'text'.* Its columns are question"),
    ):
        with pytest.raises(InputError, match=wrong):
            check_data(CalibrationData(dataset=name, generated=Generated()))


def test_folder_of_that_name_is_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "generated").mkdir()
    monkeypatch.chdir(tmp_path)
    data = CalibrationData(dataset="generated")
    assert (data.local_folder(), data.local_file(), data.fingerprint()) == (None, None, "generated")


# ---- prompts


def prompts_of(rows: list[Any], tokenizer: Any, folder: Path, **more: Any) -> Any:
    file = write_rows(folder / "prompts.jsonl", [{"q": row} for row in rows])
    data = CalibrationData(dataset=str(file), column="q", generated=Generated(), **more)
    return read_prompts(data, tokenizer)


def test_chats_are_asked_up_to_the_last_question(tokenizer: Any, tmp_path: Path) -> None:
    (asked, short), rows = prompts_of([CHAT, "How?"], tokenizer, tmp_path)
    assert asked.said == CHAT[:3]
    assert tokenizer.decode(asked.ids) == (
        "<|begin|>user: Where?<|end|><|begin|>assistant: There.<|end|><|begin|>user: Why?<|end|>"
    )
    assert asked.answered(" So. ") == [*CHAT[:3], {"role": "assistant", "content": "So."}]
    assert short.said == [{"role": "user", "content": "How?"}]
    assert (rows.used, rows.skipped) == (2, 0)


def test_template_is_asked_for_the_answer(tokenizer: Any, tmp_path: Path) -> None:
    open_ended = copy.deepcopy(tokenizer)
    open_ended.chat_template += "{% if add_generation_prompt %}<|begin|>assistant: {% endif %}"
    (prompt,), _ = prompts_of(["How?"], open_ended, tmp_path)
    assert open_ended.decode(prompt.ids) == "<|begin|>user: How?<|end|><|begin|>assistant: "


def test_texts_are_continued_where_there_is_no_template(tokenizer: Any, tmp_path: Path) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    (prompt,), _ = prompts_of(["The river "], plain, tmp_path)
    assert (prompt.said, plain.decode(prompt.ids)) == ("The river ", "The river ")
    assert prompt.answered("The river ran.") == "The river ran."


def test_rows_that_cannot_be_answered_are_skipped(tokenizer: Any, tmp_path: Path) -> None:
    rows = ["How?", "Who?", "When?", "", "long " * 200, CHAT[1:2], 7]
    prompts, count = prompts_of(rows, tokenizer, tmp_path, max_length=64)
    assert len(prompts) == count.used == 3
    assert (count.empty, count.skipped) == (1, 3)
    assert "leaves no room for an answer in a max_length of 64" in count.first
    with pytest.raises(InputError, match=r"1 of 1 rows cannot be used; row 1: .* no turn of the user"):
        prompts_of([CHAT[1:2]], tokenizer, tmp_path)
    with pytest.raises(InputError, match="has no prompt to answer"):
        prompts_of([""], tokenizer, tmp_path)
