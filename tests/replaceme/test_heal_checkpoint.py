"""A pruned checkpoint on disk → a healed checkpoint on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import replaceme
from replaceme.errors import InputError
from replaceme.healing.checkpoint import load_pair
from replaceme.io import loading
from replaceme.io.editfile import load_edit, save_edit
from replaceme.io.saved import SavedLayers
from replaceme.provenance import Provenance
from replaceme.surgery import write_checkpoint

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {"tokens": "12k", "max_length": 32, "samples": 200, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def pruned(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of the small model replaced by a transform."""
    out = tmp_path_factory.mktemp("pruned") / "pruned"
    options = {"layers": 2, "solver": "lstsq", "samples": 30, "max_length": 32}
    replaceme.prune_checkpoint(str(tiny), out, **options)
    return out


@pytest.fixture(scope="module")
def healed(
    tiny: Path, pruned: Path, tmp_path_factory: pytest.TempPathFactory
) -> replaceme.HealedCheckpoint:
    out = tmp_path_factory.mktemp("healed") / "healed"
    return replaceme.heal_checkpoint(pruned, out, teacher=tiny, **SETTINGS)


def test_healed_checkpoint_is_an_ordinary_one_of_the_same_shape(
    pruned: Path, healed: replaceme.HealedCheckpoint
) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (pruned, healed.out))
    shapes = [{name: (t.shape, t.dtype) for name, t in one.items()} for one in (before, after)]
    assert shapes[0] == shapes[1]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith("mlp.down_proj.weight") for name in changed)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (pruned, healed.out)]
    assert configs[0] == configs[1]
    assert AutoModelForCausalLM.from_pretrained(healed.out).config.num_hidden_layers == 6
    assert not [file for file in healed.out.parent.iterdir() if file != healed.out]


def test_it_is_nearer_to_the_intact_model(
    tiny: Path, pruned: Path, healed: replaceme.HealedCheckpoint, texts: list[str], tokenizer: Any
) -> None:
    ids = [tokenizer(text, return_tensors="pt")["input_ids"][:, :32] for text in texts[-10:]]

    @torch.no_grad()
    def logs(folder: Path) -> list[torch.Tensor]:
        model = AutoModelForCausalLM.from_pretrained(folder)
        return [model(one).logits.log_softmax(-1) for one in ids]

    goal = logs(tiny)
    far = [
        sum(float((p.exp() * (p - q)).sum()) for p, q in zip(goal, logs(folder), strict=True))
        for folder in (pruned, healed.out)
    ]
    assert far[1] < 0.96 * far[0]
    before, after = healed.facts.divergence
    assert after < 0.96 * before


def test_files_tell_what_was_trained_on_what_and_for_how_long(
    pruned: Path, healed: replaceme.HealedCheckpoint
) -> None:
    before, said = (
        Provenance.model_validate_json((folder / "replaceme.json").read_bytes())
        for folder in (pruned, healed.out)
    )
    assert said == healed.provenance
    (facts,) = said.healed
    assert said.model_copy(update={"healed": []}) == before
    assert facts == healed.facts
    assert facts.training["train"] == "mlp"
    assert facts.training["learning_rate"] == 3e-3
    assert 11_000 < facts.tokens <= 12_000
    assert facts.seconds > 0
    assert facts.text["dataset"] == "builtin:prose"
    assert facts.used and facts.warning is None
    card = (healed.out / "README.md").read_text()
    assert f"on {facts.tokens:,} tokens of `builtin:prose`" in card
    assert "Wrote" in healed.summary


@pytest.mark.parametrize("settings", [{"train": "tail"}, {"train": "lora", "rank": 4, "norms": True}])
def test_every_part_is_written_and_predicts_what_was_measured(
    settings: dict[str, Any], tiny: Path, pruned: Path, tmp_path: Path
) -> None:
    if settings["train"] == "lora":
        pytest.importorskip("peft")
    made = replaceme.heal_checkpoint(pruned, tmp_path / "out", teacher=tiny, **SETTINGS | settings)
    assert made.facts.used
    before, after = (load_file(folder / "model.safetensors") for folder in (pruned, made.out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert ("lm_head.weight" in changed) == (settings["train"] == "tail")
    assert ("model.norm.weight" in changed) == ("norms" in settings)


def test_bfloat16_checkpoint_of_a_float32_teacher_shares_its_layers(tiny: Path, tmp_path: Path) -> None:
    options = {"layers": 2, "solver": "lstsq", "samples": 30, "max_length": 32, "dtype": "bfloat16"}
    cast = replaceme.prune_checkpoint(str(tiny), tmp_path / "cast", **options)
    made = replaceme.heal_checkpoint(tmp_path / "cast", tmp_path / "out", teacher=tiny, **SETTINGS)
    assert made.facts.shared_layers == cast.provenance.blocks[0][0] - 1
    assert made.facts.used
    dtypes = {tensor.dtype for tensor in load_file(made.out / "model.safetensors").values()}
    assert dtypes == {torch.bfloat16}


def test_bfloat16_pair_predicts_what_its_files_do(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotary frequencies, which no file holds, stay in float32."""
    monkeypatch.setattr(loading, "training_dtype", lambda dtype, _: dtype)  # as if it multiplied it
    out = tmp_path / "half"
    options = {"layers": 2, "solver": "uidl", "samples": 30, "max_length": 32, "dtype": "bfloat16"}
    replaceme.prune_checkpoint(str(tiny), out, **options)
    source, teacher = (replaceme.Checkpoint.open(str(folder)) for folder in (out, tiny))
    provenance = Provenance.model_validate_json((out / "replaceme.json").read_bytes())
    pair, _ = load_pair(source, teacher, provenance, "cpu")
    ids = torch.arange(2, 402)[None]
    plain = AutoModelForCausalLM.from_pretrained(out)
    assert plain.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(pair.student.model(ids).logits, plain(ids).logits)


def test_half_precision_trains_to_nearly_what_float32_does(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"layers": 2, "solver": "lstsq", "samples": 30, "max_length": 32, "dtype": "bfloat16"}
    replaceme.prune_checkpoint(str(tiny), tmp_path / "cast", **options)
    found = {}
    for dtype in ("float32", "bfloat16"):
        monkeypatch.setattr(loading, "training_dtype", lambda *_, dtype=dtype: dtype)
        out = tmp_path / dtype
        found[dtype] = replaceme.heal_checkpoint(tmp_path / "cast", out, teacher=tiny, **SETTINGS)
    gains = {dtype: made.facts.divergence[0] - made.facts.divergence[1] for dtype, made in found.items()}
    assert gains["float32"] > 0
    assert gains["bfloat16"] == pytest.approx(gains["float32"], rel=0.05)


@pytest.mark.parametrize("fast", [True, False])
def test_a_cpu_trains_in_bfloat16_if_it_multiplies_it(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert loading.training_dtype("bfloat16", "cpu") == ("bfloat16" if fast else "float32")
    assert loading.training_dtype("float16", "cpu") == "float32"
    assert loading.training_dtype("float16", "cuda:0") == "float16"


@pytest.fixture(scope="module")
def mixture(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A Mixtral whose files hold experts one by one, intact and without two layers."""
    folder = tmp_path_factory.mktemp("mixture")
    whole = save_model(folder / "whole", "mixtral", num_local_experts=4, num_hidden_layers=6)
    options = {"layers": 2, "solver": "lstsq", "samples": 30, "max_length": 32}
    replaceme.prune_checkpoint(str(whole), folder / "pruned", **options)
    return [whole, folder / "pruned"]


def test_experts_are_healed_in_files_that_hold_them_one_by_one(
    mixture: list[Path], tmp_path: Path
) -> None:
    """What was measured of the student is what the checkpoint predicts: else it is not written."""
    whole, pruned = mixture
    made = replaceme.heal_checkpoint(pruned, tmp_path / "out", teacher=whole, **SETTINGS)
    assert made.facts.used
    before, after = (load_file(folder / "model.safetensors") for folder in (pruned, made.out))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = range(made.facts.shared_layers, 4)
    assert changed == {
        f"model.layers.{i}.block_sparse_moe.experts.{expert}.w2.weight"
        for i in layers
        for expert in range(4)
    }


def test_what_such_files_hold_under_another_name_is_not_healed(
    mixture: list[Path], tmp_path: Path
) -> None:
    whole, pruned = mixture
    with pytest.raises(InputError, match=r"mlp\.gate\.weight is trained, but .* such as mlp or lora"):
        replaceme.heal_checkpoint(pruned, tmp_path / "out", teacher=whole, **SETTINGS, train="all")
    assert not (tmp_path / "out").exists()


def test_values_outside_the_layers_are_part_of_an_edit(tiny: Path, tmp_path: Path) -> None:
    from replaceme.architectures import architecture_of
    from replaceme.edit import Edit
    from replaceme.io.models import read_config

    head = torch.randn(512, 64, dtype=torch.float64)
    architecture = architecture_of(read_config(tiny), "tiny", tiny)
    edit = SavedLayers.of(tiny, architecture, "bfloat16").rounded(Edit(outside={"lm_head.weight": head}))
    assert edit.outside["lm_head.weight"].dtype == torch.bfloat16
    made = replaceme.prune_checkpoint(str(tiny), tmp_path / "p", layers=1, solver="uidl", samples=20)
    save_edit(tmp_path / "e.safetensors", edit, made.provenance)
    again, _ = load_edit(tmp_path / "e.safetensors")
    assert torch.equal(again.outside["lm_head.weight"], edit.outside["lm_head.weight"])
    write_checkpoint(tiny, tmp_path / "out", again, None)
    written = load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"]
    assert torch.equal(written, head.to(torch.bfloat16).float())
    for wrong in (Edit(outside={"head.weight": head}), Edit(outside={"lm_head.weight": head[:3]})):
        with pytest.raises(InputError, match=r"no tensor head.weight|lm_head.weight has the shape"):
            write_checkpoint(tiny, tmp_path / "no", wrong, None)


# ---- fine-tuning on data


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Short chats about the same few things."""
    things = {"snow": "white", "coal": "black", "grass": "green", "the sky": "blue"}
    rows = [
        [
            {"role": "user", "content": f"What is the colour of {thing}, for the {i}. time?"},
            {"role": "assistant", "content": f"The colour of {thing} is {colour}."},
        ]
        for i in range(30)
        for thing, colour in things.items()
    ]
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return file


def test_fine_tuned_checkpoint_tells_what_it_learnt(
    chats: Path, tiny: Path, pruned: Path, tmp_path: Path
) -> None:
    pytest.importorskip("trl")
    settings = {"objective": "sft", "calibration": str(chats), "column": "messages", "tokens": "20k"}
    options = settings | {"learning_rate": 5e-3, "norms": True}
    made = replaceme.heal_checkpoint(pruned, tmp_path / "out", teacher=tiny, **options)
    facts = made.facts
    assert facts.used and facts.warning is None
    assert (facts.objective, facts.divergence) == ("sft", None)
    assert facts.cross_entropy and facts.cross_entropy[1] < 0.9 * facts.cross_entropy[0]
    assert facts.training.items() >= {"train": "lora", "dropout": 0.05, "objective": "sft"}.items()
    before, after = (load_file(folder / "model.safetensors") for folder in (pruned, made.out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "model.norm.weight" in changed
    assert not [name for name in changed if "embed" in name or "lm_head" in name]
    said = Provenance.model_validate_json((made.out / "replaceme.json").read_bytes())
    assert said.healed == [facts]
    card = (made.out / "README.md").read_text()
    assert "trained on data, by sft: `lora` with norms" in card
    assert "Its cross entropy of what is learnt went from" in card
    assert "Trained lora by sft" in made.summary
    assert not [file for file in made.out.parent.iterdir() if "healing" in file.name]


def test_plain_text_is_learnt_without_a_data_set(tiny: Path, pruned: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    options = SETTINGS | {"objective": "sft", "train": "projection", "packing": True}
    made = replaceme.heal_checkpoint(pruned, tmp_path / "out", teacher=tiny, **options)
    assert made.facts.used
    assert made.facts.loss and made.facts.loss[1] < made.facts.loss[0]
    before, after = (load_file(folder / "model.safetensors") for folder in (pruned, made.out))
    (changed,) = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed.endswith("mlp.down_proj.weight")


# ---- bad input


def test_folder_that_was_not_pruned_here_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no replaceme\.json"):
        replaceme.heal_checkpoint(tiny, tmp_path / "out", teacher=tiny)


def test_teacher_of_another_family_is_refused(
    pruned: Path, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    other = save_model(tmp_path / "qwen", "qwen3")
    with pytest.raises(InputError, match=r"of the family llama, and the teacher .* of qwen3"):
        replaceme.heal_checkpoint(pruned, tmp_path / "out", teacher=other)


def test_teacher_with_another_tokenizer_is_refused(tiny: Path, pruned: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    one, two = list(vocabulary)[100:102]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="have different tokenizers"):
        replaceme.heal_checkpoint(pruned, tmp_path / "out", teacher=other)


def test_teacher_with_other_weights_is_refused(
    tiny: Path, pruned: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    for parameter in model.parameters():
        parameter.data += 0.01
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="was not pruned from this teacher"):
        replaceme.heal_checkpoint(pruned, tmp_path / "out", teacher=tmp_path / "other", **SETTINGS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokens": "some"}, "--tokens: 'some' is no number of tokens"),
        ({"train": "head"}, "--train: .*'projection'"),
        ({"tokens": 1, "seconds": 2}, "give either 'tokens' or 'seconds'"),
        ({"calibration": "no.jsonl"}, "no such file"),
        ({"tokens": 100}, "tokens: 100 are fewer than one step"),
        ({"packing": True}, "'packing' belongs to 'objective: sft'"),
        ({"objective": "sft", "prompt": "question"}, "'builtin:prose' is a text without columns"),
        ({"samples": 9, "max_length": 32}, "9 sequences are too few"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(
    options: dict[str, Any], said: str, tiny: Path, pruned: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        replaceme.heal_checkpoint(pruned, tmp_path / "out", teacher=tiny, **options)
    assert not (tmp_path / "out").exists()
