"""Engines that answer for variants in turn: weights that are put in, and what goes wrong."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from bench.scoring.generation.job import Asked, Variant, write_requests
from bench.scoring.generation.launch import WORKER, Engines, Outcome
from bench.scoring.generation.texts import Text, Texts, read_kept
from bench.serving import ServingError, Workers
from tests.bench.waiting import list_engines

pytestmark = pytest.mark.slow

PROMPTS = ["My grandmother kept the good plates", "The river", "When the bell rang that Sunday"]
GREEDY: dict[str, Any] = {"do_sample": False, "max_gen_toks": 8, "until": ["never comes"]}


@pytest.fixture(scope="module")
def models(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four checkpoints of one shape; the first token of the vocabulary ends a text."""
    root = tmp_path_factory.mktemp("engines")
    settings: dict[str, Any] = {"num_hidden_layers": 4, "eos_token_id": 0}
    folders = {name: save_model(root / name, **settings) for name in ("plain", "other", "nan", "mute")}
    down = "model.layers.1.mlp.down_proj.weight"
    change(folders["other"], down, lambda matrix: matrix.flip(0))
    change(folders["nan"], down, lambda matrix: matrix * float("nan"))
    change(folders["mute"], "lm_head.weight", lambda matrix: matrix * 0)
    return folders


def change(folder: Path, tensor: str, how: Callable[[Any], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[tensor] = how(tensors[tensor]).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture
def answer(tmp_path: Path) -> Callable[..., tuple[Outcome, Texts]]:
    """Has checkpoints answer tasks: name → requests."""

    def answer(
        folders: list[Path], tasks: dict[str, list[tuple[str, dict[str, Any]]]], **settings: Any
    ) -> tuple[Outcome, Texts]:
        asked = []
        for name, requests in tasks.items():
            file = tmp_path / f"{name}.jsonl"
            write_requests(file, requests)
            lacking = [*range(len(requests))]
            asked.append(Asked(requests=name, file=file, lacking=lacking, sampled=False))
        texts = Texts(tmp_path / "texts.jsonl", {"dtype": "float32"})
        report = settings.pop("report", lambda _: None)
        more = {"dtype": "float32", "kv_cache_bytes": 2**27} | settings
        variants = [Variant(stem=folder.name, folder=folder, asked=asked) for folder in folders]
        outcome = Outcome()
        with Workers(WORKER) as workers:
            for entries in Engines(workers, tmp_path / "logs", report, **more).answer(variants):
                texts.keep(entries)
                outcome.take(entries)
        return outcome, texts

    return answer


def plainly(prompts: list[str], **changes: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(prompt, GREEDY | changes) for prompt in prompts]


def test_weights_of_a_swapped_engine_are_the_checkpoints_bit_for_bit_and_back(
    models: dict[str, Path], run_vllm: Callable[..., list[str]]
) -> None:
    script = Path(__file__).with_name("engine_weights.py")
    lines = run_vllm("STATE", script, models["plain"], models["other"])
    assert lines == ["True False", "False True 1", "True False 1"]


def test_each_variant_answers_as_itself_and_what_goes_wrong_stays_with_it(
    models: dict[str, Path], answer: Callable[..., tuple[Outcome, Texts]]
) -> None:
    folders = [models[name] for name in ("plain", "nan", "mute", "other")]
    tasks = {
        "few": plainly(PROMPTS),
        "room": plainly(PROMPTS, max_gen_toks=256),
        "setting": plainly(PROMPTS, temprature=1),
        "empty": plainly(["", *PROMPTS]),
    }
    outcome, texts = answer(folders, tasks)
    assert outcome.loaded == {"plain": "engine", "nan": "swap", "mute": "engine", "other": "swap"}
    assert outcome.nan == {("nan", task) for task in tasks}
    assert outcome.errors["plain", "room"] == (
        "max_gen_toks is 256, and the model takes 256 tokens with the prompt"
    )
    assert "temprature" in outcome.errors["other", "setting"]
    assert outcome.errors["mute", "empty"] == "a prompt is empty, from which vLLM does not go on"
    assert texts.of("mute", "few") == [Text("", 1, False, None)] * 3
    plain, other = texts.of("plain", "few"), texts.of("other", "few")
    assert plain != other
    assert all(text.cut_off == (text.tokens == 8) for text in plain + other)
    assert any(text.cut_off for text in plain)
    with pytest.raises(KeyError):
        texts.of("nan", "few")


def test_engine_that_dies_in_a_task_loses_that_task_and_no_other(
    models: dict[str, Path], answer: Callable[..., tuple[Outcome, Texts]], tmp_path: Path
) -> None:
    killed: list[float] = []

    def kill(share: float) -> None:
        for process in list_engines(tmp_path, WORKER):
            if share > 0.01 and not killed:
                killed.append(share)
                process.send_signal(signal.SIGKILL)

    long = plainly([f"{prompt} {i}" for prompt in PROMPTS for i in range(150)], max_gen_toks=64)
    tasks = {"few": plainly(PROMPTS), "long": long, "again": plainly(PROMPTS)}
    outcome, texts = answer([models["plain"], models["other"]], tasks, report=kill)
    assert len(killed) == 1
    assert outcome.errors == {
        ("plain", "long"): "The engine was killed by SIGKILL (log: generate-plain.log)"
    }
    assert outcome.loaded == {"plain": "engine", "other": "swap"}
    assert len(texts.of("plain", "few")) == len(texts.of("plain", "again")) == 3
    assert len(texts.of("other", "long")) == len(long)


def test_engine_that_hangs_is_killed(
    models: dict[str, Path], answer: Callable[..., tuple[Outcome, Texts]]
) -> None:
    with pytest.raises(ServingError, match=r"did not finish within 0\.5 s and was killed"):
        answer([models["plain"]], {"few": plainly(PROMPTS)}, stall=0.5)


def test_model_that_vllm_does_not_run_is_told(
    save_model: Callable[..., Path], tmp_path: Path, answer: Callable[..., tuple[Outcome, Texts]]
) -> None:
    folder = save_model(tmp_path / "odd", num_hidden_layers=2, head_dim=16)
    with pytest.raises(ServingError, match=r"log: generate-odd\.log"):
        answer([folder], {"few": plainly(PROMPTS)})


def test_checkpoints_of_other_tensors_are_answered_by_an_engine_of_their_own(
    models: dict[str, Path], tmp_path: Path, answer: Callable[..., tuple[Outcome, Texts]]
) -> None:
    surplus = tmp_path / "surplus"
    surplus.mkdir()
    for file in models["plain"].iterdir():
        (surplus / file.name).write_bytes(file.read_bytes())
    tensors = load_file(surplus / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = tensors["model.norm.weight"][:16].clone()
    save_file(tensors, surplus / "model.safetensors", {"format": "pt"})
    outcome, texts = answer([models["plain"], surplus], {"few": plainly(PROMPTS)})
    assert outcome.loaded == {"plain": "engine", "surplus": "engine"}
    assert "different names" in outcome.afresh["surplus"]
    assert texts.of("surplus", "few") == texts.of("plain", "few")


def test_kept_texts_are_not_written_again(
    models: dict[str, Path], answer: Callable[..., tuple[Outcome, Texts]], tmp_path: Path
) -> None:
    answer([models["plain"]], {"few": plainly(PROMPTS)})
    texts = Texts(tmp_path / "texts.jsonl", {"dtype": "float32"})
    assert texts.list_lacking("plain", "few", 4) == [3]
    asked = Asked(requests="few", file=tmp_path / "few.jsonl", lacking=[0, 1, 2], sampled=False)
    variant = Variant(stem="plain", folder=models["plain"], asked=[asked])
    kept = read_kept(texts.path, {"dtype": "float32"})
    assert not [*Engines(Workers(WORKER), tmp_path / "logs", dtype="float32").answer([variant], kept)]
    assert not read_kept(texts.path, {"dtype": "bfloat16"})
    assert Texts(tmp_path / "texts.jsonl", {"dtype": "bfloat16"}).list_lacking("plain", "few", 1) == [0]
