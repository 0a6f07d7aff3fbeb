"""The published commands, on a small model and a local calibration file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from replaceme.calibrating import calibrate
from replaceme.calibration import Batches, padding_token
from replaceme.compat.commands import run_replaceme, run_uidl
from replaceme.compat.config import SeedConfig
from replaceme.compat.data import first_turn
from replaceme.compat.reference import published_choice
from replaceme.errors import InputError
from replaceme.fitting import fit
from replaceme.io.editfile import load_edit
from replaceme.io.loading import load
from replaceme.selection import Block
from replaceme.solvers import Cosine, Lstsq, Solver

pytestmark = pytest.mark.slow

SIZE, LENGTH = 40, 48


@pytest.fixture
def published(tiny: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The keys of a published YAML, for the small model; outputs go to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "texts.jsonl").write_text(rows, "utf-8")
    return {
        "method": "lstsq",
        "model_path": str(tiny),
        "dataset": "texts.jsonl",
        "dataset_column": "text",
        "batch_size": 4,
        "max_length": LENGTH,
        "dataset_size": SIZE,
        "dataset_subset": "train",
        "use_4bit": False,
        "save_path": "out",
        "min_distance_layer": None,
        "save_transform_only": False,
        "diag": False,
        "alpha": 0,
        "distances_path": "distances/two.json",
        "num_A": 1,
        "layers_to_skip": 2,
        "merge_consecutive": True,
    }


def call(config: dict[str, Any], *flags: str, command: Any = run_replaceme) -> Result:
    Path("config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return CliRunner().invoke(command, ["--config", "config.yaml", *flags])


def succeed(config: dict[str, Any], *flags: str, command: Any = run_replaceme) -> str:
    result = call(config, *flags, command=command)
    assert result.exit_code == 0, result.output
    return result.output


def saved_layers(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def by_library(
    tiny: Path, texts: list[str], solver: Solver, blocks: tuple[Block, ...] = (), compat: bool = True
) -> dict[int, torch.Tensor]:
    """Layer → transform, by the library from the same texts."""
    model, tokenizer = load(tiny)
    sequences = [tokenizer(text)["input_ids"][:LENGTH] for text in texts[:SIZE]]
    batches = Batches(sequences, 4, pad=padding_token(tokenizer))
    found = calibrate(
        model,
        batches,
        counts=[] if blocks else [2],
        blocks=[blocks] if blocks else [],
        solvers=[solver],
        compat_reference=compat,
    )
    return fit(solver, found, blocks or found.choices[2].blocks).edit.transforms


def test_a_published_yaml_gives_the_model_of_the_published_procedure(
    published: dict[str, Any], tiny: Path, texts: list[str]
) -> None:
    output = succeed(published)
    ((layer, transform),) = by_library(tiny, texts, Lstsq()).items()
    assert f"[{layer + 1}, {layer + 3}) (0-based, the end stays) of 8" in output
    name = f"model.layers.{layer}.mlp.down_proj.weight"
    weight = saved_layers(str(tiny))[name].bfloat16()
    saved = saved_layers("out_ReplaceMe_lstsq_1")[name]
    assert torch.equal(saved, (transform.mT @ weight.double()).bfloat16())


def test_null_turns_the_published_behaviour_off(
    published: dict[str, Any], tiny: Path, texts: list[str]
) -> None:
    succeed(published | {"compat": None, "save_transform_only": True})
    edit, _ = load_edit(Path("out_ReplaceMe_lstsq_1_transform.safetensors"))
    wanted = by_library(tiny, texts, Lstsq(), edit.blocks, compat=False)
    as_published = by_library(tiny, texts, Lstsq(), edit.blocks)
    for layer, transform in edit.transforms.items():
        assert torch.allclose(transform, wanted[layer])
        assert not torch.allclose(transform, as_published[layer], rtol=1e-2)


def test_blocks_of_the_cosine_method_are_fitted_one_after_the_other(
    published: dict[str, Any], tiny: Path, texts: list[str]
) -> None:
    changes = {
        "method": "cosine",
        "num_A": 2,
        "merge_consecutive": False,
        "accurate": True,
        "loss": "cosine",
        "solver": "adam",
        "two_vectors": False,
        "thri": False,
        "save_transform_only": True,
    }
    succeed(published | changes)
    config = json.loads(Path("out_ReplaceMe_cosine_adam/config.json").read_text("utf-8"))
    assert config["num_hidden_layers"] == 4
    edit, provenance = load_edit(Path("out_ReplaceMe_cosine_adam_transform.safetensors"))
    wanted = by_library(tiny, texts, Cosine(exact=True), edit.blocks)
    assert edit.transforms.keys() == wanted.keys()
    assert all(torch.allclose(edit.transforms[layer], wanted[layer]) for layer in wanted)
    assert provenance.solver["parameters"]["exact"]


@pytest.mark.parametrize(
    ("keys", "parameters"),
    [
        ({"diag": True, "alpha": 2.0}, {"diagonal": True, "alpha": 0.0}),
        ({"alpha": 2.0}, {"diagonal": False, "alpha": 2.0}),
        ({"method": "cosine", "thri": True}, {"shape": "triangular"}),
        ({"method": "cosine", "two_vectors": True, "loss": "mse"}, {"shape": "outer", "loss": "mse"}),
        ({"method": "cosine", "diag": True}, {"shape": "diagonal", "exact": False, "epochs": 10}),
    ],
    ids=str,
)
def test_keys_of_the_fit_mean_what_they_mean_in_the_published_code(
    published: dict[str, Any], keys: dict[str, Any], parameters: dict[str, Any]
) -> None:
    output = succeed(published | keys)
    folder = re.findall(r"Wrote (.*)\.", output)[-1]
    provenance = json.loads(Path(folder, "replaceme.json").read_text("utf-8"))
    assert parameters.items() <= provenance["solver"]["parameters"].items()


def test_uidl_removes_layers_and_changes_nothing_else(published: dict[str, Any], tiny: Path) -> None:
    succeed(published, command=run_uidl)
    whole, pruned = saved_layers(str(tiny)), saved_layers("out_UIDL")
    distances = json.loads(Path("distances/two.json").read_text("utf-8"))
    (block,) = published_choice(distances, 2).blocks
    kept = [i for i in range(8) if i not in range(*block)]
    for name, tensor in pruned.items():
        if found := re.match(r"model\.layers\.(\d+)\.(.*)", name):
            name = f"model.layers.{kept[int(found[1])]}.{found[2]}"
        assert torch.equal(tensor, whole[name])
    assert len(whole) - len(pruned) == 2 * 9


def test_distances_are_computed_once_and_then_read(published: dict[str, Any]) -> None:
    succeed(published)
    path = Path("distances/two.json")
    distances = json.loads(path.read_text("utf-8"))
    assert len(distances) == 6
    assert all(0 < distance < 1 for distance in distances)
    path.write_text(json.dumps([0.5, 0.5, 0.1, 0.5, 0.5, 0.5]), "utf-8")
    assert "[3, 5)" in succeed(published, "--overwrite")


def test_distances_for_other_blocks_are_computed_with_a_note(published: dict[str, Any]) -> None:
    succeed(published)
    output = succeed(published | {"layers_to_skip": 3}, "--overwrite")
    assert "holds 6 distances, and 5 are those of blocks of 3 layers in a model of 8" in output
    assert len(json.loads(Path("distances/two.json").read_text("utf-8"))) == 5


def test_distances_in_a_pickle_stand_in_json_beside_it(published: dict[str, Any]) -> None:
    pickled = published | {"distances_path": "./distances.pth"}
    assert "the distances are in distances.json" in succeed(pickled)
    assert not Path("distances.pth").exists()
    assert "read from distances.json" in succeed(pickled, "--overwrite")
    Path("distances.pth").write_bytes(b"\x80")
    succeed(pickled, "--overwrite")
    Path("distances.json").unlink()
    result = call(pickled, "--overwrite")
    assert result.exit_code == 2
    assert re.search(r"config.yaml:\d+: distances_path: distances.pth is a pickle", result.stderr)


def test_without_a_path_distances_are_computed_anew(published: dict[str, Any]) -> None:
    Path("distances.json").write_text("[]", "utf-8")
    succeed(published | {"distances_path": None})
    assert len(json.loads(Path("distances.json").read_text("utf-8"))) == 6


def test_fewer_blocks_are_removed_where_there_is_no_room(published: dict[str, Any]) -> None:
    output = succeed(published | {"num_A": 4, "layers_to_skip": 4, "distances_path": None})
    assert " and " not in output
    assert Path("out_ReplaceMe_lstsq_4").is_dir()


def test_without_a_save_path_the_folder_is_named_as_the_published_code_names_it(
    published: dict[str, Any], tiny: Path
) -> None:
    Path("distances").mkdir()
    Path("distances/two.json").write_text(json.dumps([0.5, 0.5, 0.1, 0.5, 0.5, 0.5]), "utf-8")
    succeed(published | {"save_path": None})
    name = f"{tiny}_2_layers_3_5_texts.jsonl_{SIZE}_ReplaceMe_lstsq_1".replace("/", "_")
    assert Path("output_models", name, "config.json").is_file()


def test_min_distance_layer_counts_only_where_the_published_behaviour_is_off(
    published: dict[str, Any],
) -> None:
    Path("distances").mkdir()
    Path("distances/two.json").write_text(json.dumps([0.1, 0.5, 0.5, 0.3, 0.5, 0.5]), "utf-8")
    limited = published | {"min_distance_layer": 3}
    output = succeed(limited)
    assert "min_distance_layer changes nothing" in output
    assert "[1, 3)" in output
    assert "[4, 6)" in succeed(limited | {"compat": None}, "--overwrite")


def test_the_last_line_says_how_to_score_the_model(published: dict[str, Any]) -> None:
    output = succeed(published | {"tasks": {"winogrande": {"fewshots": 5}}})
    wanted = "To score it: evaluate_model --config config.yaml --model out_ReplaceMe_lstsq_1"
    assert wanted in output.splitlines()


TURNS = [("system", "Be brief."), ("human", "Why?"), ("gpt", "Because."), ("human", "And?")]
CONVERSATION = [{"from": role, "value": text} for role, text in TURNS]


def test_the_first_question_and_answer_of_a_conversation_are_used(tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    wanted = "<|begin|>user: Why?<|end|><|begin|>assistant: Because.<|end|>"
    for conversation in (CONVERSATION, CONVERSATION[1:], chat):
        assert first_turn(conversation, tokenizer, "here") == wanted


def test_a_column_of_conversations_counts_as_their_first_questions_and_answers(
    published: dict[str, Any], tokenizer: Any
) -> None:
    talks = [[*CONVERSATION[:2], {"from": "gpt", "value": f"Because of {n}."}] for n in range(SIZE)]
    rows = [{"talk": talk, "text": first_turn(talk, tokenizer, "here")} for talk in talks]
    Path("talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for column in ("talk", "text"):
        changes = {"dataset": "talks.jsonl", "dataset_column": column, "save_path": column}
        succeed(published | changes | {"distances_path": None})
    weights = [saved_layers(f"{column}_ReplaceMe_lstsq_1") for column in ("talk", "text")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    "talk", [[], CONVERSATION[:2], [{"from": "human", "value": None}, CONVERSATION[2]]], ids=str
)
def test_a_conversation_without_an_answer_is_named(published: dict[str, Any], talk: list[Any]) -> None:
    rows = [{"talk": CONVERSATION}, {"talk": talk}]
    Path("talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    result = call(published | {"dataset": "talks.jsonl", "dataset_column": "talk"})
    assert result.exit_code == 2
    assert "dataset_column: 'talk' of 'talks.jsonl', row 2: the conversation does not" in result.stderr


def test_the_model_is_used_as_the_model_card_says(published: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    succeed(published)
    folder = "out_ReplaceMe_lstsq_1"
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto", device_map="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "What is ReplaceMe pruning method?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer([text], return_tensors="pt").to(model.device)
    written = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8)
    assert written.shape[1] == inputs["input_ids"].shape[1] + 8
    assert model.dtype == torch.bfloat16
    assert tokenizer.batch_decode(written)


def test_blocks_removed_in_turn_are_in_a_folder_named_after_the_one_before(
    published: dict[str, Any], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)  # a short name of the model
    changes = {"model_path": tiny.name, "num_A": 2, "merge_consecutive": False}
    config = SeedConfig.model_validate(published | changes | {"save_path": None})
    blocks = (Block(1, 3), Block(5, 7))
    first = f"{tiny.name}_2_layers_1_3_texts.jsonl_{SIZE}_ReplaceMe_cosine_adam"
    second = f"output_models_{first}_2_layers_5_7_texts.jsonl_{SIZE}_ReplaceMe_cosine_adam"
    assert config.folder("cosine", blocks) == Path("output_models") / second
    removed = f"output_models_{tiny.name}_2_layers_1_3_UIDL_2_layers_5_7_UIDL"
    assert config.folder("uidl", blocks) == Path("output_models") / removed
    fitted = f"{tiny.name}_2_layers_1_3__5_7_texts.jsonl_{SIZE}_ReplaceMe_lstsq_2"
    assert config.folder("lstsq", blocks) == Path("output_models") / fitted
    with pytest.raises(InputError, match=r"save_path: without one .* has 2\d\d bytes"):
        config.model_copy(update={"model_path": "m" * 200}).folder("uidl", blocks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": 7}, r"config.yaml:\d+: token: should be a text; write it in quotes"),
        ({"use_4bit": "maybe"}, r"config.yaml:\d+: use_4bit: should be a valid boolean"),
        ({"tasks": {"boolq": 0}}, r"config.yaml:\d+: tasks: boolq is to have {fewshots: NUMBER}"),
        ({"tasks": "boolq"}, r"config.yaml:\d+: tasks: allowed are default, a list of names"),
        ({"solver": "cg"}, r"config.yaml:\d+: solver: cg is not supported"),
        ({"layer_to_skip": 2}, r"config.yaml:\d+: layer_to_skip: unknown key; did you mean 'layers_to_"),
        ({"method": "magic"}, r"config.yaml:\d+: method: "),
        ({"method": None}, r"method: this key is required; allowed are lstsq and cosine"),
        ({"layers_to_skip": 8}, r"layers_to_skip: 8 layers cannot be removed from a model of 8"),
        (
            {"compat": None, "min_distance_layer": 7},
            r"min_distance_layer: no 2 layers .* allowed are 1 to 6",
        ),
        ({"dataset": "nowhere.jsonl"}, r"'nowhere.jsonl': no such file"),
        ({"dataset_column": "txet"}, r"no column 'txet'; did you mean 'text'"),
        ({"model_path": "./nowhere"}, r"'./nowhere': no such file or folder"),
        ({"batch_size": 64}, r"40 calibration texts do not fill one of 64"),
        ({"distances_path": "config.yaml"}, r"config.yaml is not a JSON list of the 6 distances"),
        ({"dataset": "fineweb_and_orca", "dataset_size": None}, r"dataset_size: fineweb_and_orca needs"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_a_sentence(
    published: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    result = call(published | changes)
    assert result.exit_code == 2
    assert re.search(message, result.stderr)
    assert "Traceback" not in result.output
    assert not Path("out_ReplaceMe_lstsq_1").exists()


def test_an_existing_folder_is_refused_unless_it_may_be_replaced(published: dict[str, Any]) -> None:
    succeed(published)
    result = call(published)
    assert result.exit_code == 2
    assert "out_ReplaceMe_lstsq_1 exists and is not empty" in result.stderr
    succeed(published, "--overwrite")


def test_folder_that_holds_the_intact_model_is_refused_before_any_work(
    published: dict[str, Any], tiny: Path
) -> None:
    shutil.copytree(tiny, "out_UIDL")
    result = call(published | {"model_path": "out_UIDL"}, "--overwrite", command=run_uidl)
    assert result.exit_code == 2
    assert "out_UIDL holds the intact model" in result.stderr
    assert not Path("distances").exists()


def test_an_existing_transform_is_refused_unless_it_may_be_replaced(published: dict[str, Any]) -> None:
    file = Path("out_ReplaceMe_lstsq_1_transform.safetensors")
    file.write_text("mine")
    published["save_transform_only"] = True
    result = call(published)
    assert result.exit_code == 2
    assert f"{file} exists; name another file, or use --overwrite" in result.stderr
    assert file.read_text() == "mine"
    succeed(published, command=run_uidl)
    succeed(published, "--overwrite")
    assert load_edit(file)[0].transforms


@pytest.mark.parametrize(
    ("count", "chosen", "runner_up"),
    [(1, r"0\.1000", r"\[5, 7\) at 0\.2000"), (2, r"0\.3000", r"\[1, 3\) and \[3, 5\) at 0\.5000")],
)
def test_blocks_are_told_with_their_distance_and_the_runner_up(
    published: dict[str, Any], count: int, chosen: str, runner_up: str
) -> None:
    Path("distances").mkdir()
    Path("distances/two.json").write_text(json.dumps([0.4, 0.5, 0.1, 0.6, 0.2, 0.7]), "utf-8")
    output = succeed(published | {"num_A": count, "merge_consecutive": False}, command=run_uidl)
    assert re.search(rf"Chosen by angular at distance {chosen}; runner-up {runner_up}\.", output)


def in_a_process(command: str, config: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name(command)
    return subprocess.run([program, "--config", config], capture_output=True, text=True)


def test_the_installed_command_prunes(published: dict[str, Any]) -> None:
    Path("config.yaml").write_text(yaml.safe_dump(published), "utf-8")
    done = in_a_process("run_replaceme", "config.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Removed layers [")


@pytest.mark.parametrize("command", ["run_replaceme", "run_uidl"])
def test_the_installed_commands_say_what_is_wrong_in_a_sentence(command: str) -> None:
    done = in_a_process(command, "no.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: no.yaml cannot be read: No such file or directory.\n"
