"""The library as its documentation uses it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import replaceme
from replaceme.calibration import Batches, tokenize
from replaceme.errors import InputError
from replaceme.selection import Block, check_count, closest_block
from replaceme.solvers import Lstsq

Make = Callable[..., Any]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def output_error(model: Any, pruned: Any, block: Block, sequences: list[list[int]], alone: Any) -> float:
    """Relative error of the state that the pruned model has where the block was."""
    with torch.no_grad():
        wanted = alone(model, sequences).layers[block.end - 1]
        got = alone(pruned, sequences).layers[block.start - 1]
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_lstsq_comes_closer_to_the_original_than_plain_removal(
    make_model: Make, tokenizer: Any, texts: list[str], states_alone: Any, name: str
) -> None:
    plain, fitted = (
        replaceme.prune(make_model(name), tokenizer, texts, layers=3, solver=solver, max_length=48)
        for solver in ("uidl", "lstsq")
    )
    assert plain.block == fitted.block
    assert plain.fit.relative_error[1] == fitted.fit.relative_error[0]
    sequences = tokenize(texts, tokenizer, 48)
    for pruned in (plain, fitted):
        measured = output_error(make_model(name), pruned.model, pruned.block, sequences, states_alone)
        assert measured == pytest.approx(pruned.fit.relative_error[1], rel=1e-4)
    assert fitted.fit.relative_error[1] < 0.95 * plain.fit.relative_error[1]
    assert fitted.fit.warning is None


def test_chosen_block_is_the_one_of_smallest_angle(
    llama: Any, make_model: Make, tokenizer: Any, texts: list[str], states_alone: Any
) -> None:
    states = states_alone(llama, tokenize(texts, tokenizer, 256))
    ends = [layer[states.last_tokens] for layer in states.layers]
    angles = {
        Block(start, start + 3): float(
            torch.cosine_similarity(ends[start - 1], ends[start + 2]).arccos().mean()
        )
        for start in range(1, 6)
    }
    pruned = replaceme.prune(make_model(), tokenizer, texts, layers=3, solver="uidl")
    assert [pruned.block, pruned.runner_up] == sorted(angles, key=angles.__getitem__)[:2]


@pytest.mark.parametrize("solver", ["uidl", "lstsq", "cosine", Lstsq(ridge=0.1)], ids=str)
def test_pruned_model_is_saved_as_an_ordinary_checkpoint(
    make_model: Make, tokenizer: Any, texts: list[str], tmp_path: Path, solver: Any
) -> None:
    from transformers import AutoModelForCausalLM

    pruned = replaceme.prune(make_model(), tokenizer, texts[:20], layers=3, solver=solver)
    pruned.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([tokenizer(texts[0])["input_ids"]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, pruned.model(ids).logits)
    assert again.config.num_hidden_layers == len(again.model.layers) == 5


def test_given_block_is_used_as_it_is(make_model: Make, tokenizer: Any, texts: list[str]) -> None:
    model = make_model()
    kept = [model.model.layers[i] for i in (0, 1, 6, 7)]
    pruned = replaceme.prune(model, tokenizer, texts[:8], block=Block(2, 6))
    assert pruned.model is model
    assert pruned.block == Block(2, 6)
    assert pruned.runner_up is None
    assert list(model.model.layers) == kept


def test_chat_messages_are_calibration_texts_too(
    make_model: Make, tokenizer: Any, texts: list[str]
) -> None:
    chats = [[{"role": "user", "content": text}] for text in texts[:10]]
    pruned = replaceme.prune(make_model(), tokenizer, chats, layers=1)
    rendered = [tokenizer(f"<|begin|>user: {text}<|end|>")["input_ids"] for text in texts[:10]]
    assert pruned.tokens == sum(map(len, rendered))


def test_result_does_not_depend_on_the_batch_size(
    make_model: Make, tokenizer: Any, texts: list[str]
) -> None:
    def transform(batch_size: int) -> Tensor:
        fitted = replaceme.prune(make_model(), tokenizer, texts, layers=3, batch_size=batch_size)
        assert fitted.fit.transform is not None
        return fitted.fit.transform

    torch.testing.assert_close(transform(1), transform(16), rtol=1e-3, atol=1e-4)


def test_one_calibration_serves_several_counts_and_solvers(
    make_model: Make, tokenizer: Any, texts: list[str]
) -> None:
    batches = Batches(tokenize(texts, tokenizer, 64))
    together = replaceme.calibrate(make_model(), batches, counts=[1, 2, 4])
    for count, choice in together.choices.items():
        alone = replaceme.calibrate(make_model(), batches, counts=[count])
        assert alone.choices[count] == choice
        got, wanted = (result.moments[choice.block] for result in (together, alone))
        torch.testing.assert_close(got.gram, wanted.gram)
        torch.testing.assert_close(got.cross, wanted.cross)
    assert set(together.moments) == {choice.block for choice in together.choices.values()}


@pytest.mark.parametrize("request_", [{}, {"layers": 2, "block": Block(1, 3)}])
def test_layers_or_block_but_not_both(llama: Any, tokenizer: Any, request_: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="either the number of layers to remove or the block"):
        replaceme.prune(llama, tokenizer, ["Some words."], **request_)


@pytest.mark.parametrize(
    "request_, message",
    [
        ({"layers": 0}, "0 layers cannot be removed from a model of 8; allowed are 1 to 7"),
        ({"layers": 8}, "8 layers cannot be removed from a model of 8; allowed are 1 to 7"),
        ({"block": Block(0, 2)}, "block '0:2' does not fit a model of 8 layers: START is at least 1"),
        ({"block": Block(5, 9)}, "block '5:9' does not fit a model of 8 layers"),
        ({"block": Block(4, 4)}, "block '4:4' does not fit a model of 8 layers"),
        ({"layers": 2, "solver": "lstqs"}, "unknown solver 'lstqs'; did you mean 'lstsq'"),
    ],
)
def test_impossible_request_is_refused_and_the_model_left_alone(
    make_model: Make, tokenizer: Any, request_: dict[str, Any], message: str
) -> None:
    model = make_model()
    with pytest.raises(InputError, match=message):
        replaceme.prune(model, tokenizer, ["Some words."], **request_)
    assert len(model.model.layers) == model.config.num_hidden_layers == 8


@pytest.mark.parametrize("nothing", [[], [""], ["  ", "\n"]])
def test_calibration_without_text_is_refused(llama: Any, tokenizer: Any, nothing: list[str]) -> None:
    with pytest.raises(InputError, match="the calibration texts are empty"):
        replaceme.prune(llama, tokenizer, nothing, layers=2)


def test_unsupported_architecture_names_the_supported_ones(tokenizer: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=32, n_layer=4, n_head=2))
    message = "unsupported architecture 'gpt2'.*; supported model types are llama, mistral, qwen2, qwen3"
    with pytest.raises(InputError, match=message):
        replaceme.prune(model, tokenizer, ["Some words."], layers=2)


@pytest.mark.parametrize(
    "text, block", [("1:3", Block(1, 3)), ("3:8", Block(3, 8)), (" 2 : 4 ", Block(2, 4))]
)
def test_block_is_parsed(text: str, block: Block) -> None:
    parsed = Block.parse(text, 8)
    assert parsed == block
    assert parsed.size == block.end - block.start
    assert str(parsed) == f"[{block.start}, {block.end})"


@pytest.mark.parametrize("text", ["", "3", "3:", "a:b", "1:2:3", "1.5:3", "3-5"])
def test_block_that_is_not_two_numbers_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not START:END with two whole numbers"):
        Block.parse(text, 8)


@pytest.mark.parametrize("text", ["0:2", "3:3", "5:4", "3:9", "-1:2"])
def test_block_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"block '{text}' does not fit a model of 8 layers"):
        Block.parse(text, 8)


def test_closest_block_reads_the_diagonal_of_its_count() -> None:
    distances = torch.rand(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for count in range(1, 6):
        wanted = sorted((float(distances[i, i + count]), i + 1) for i in range(6 - count))
        choice = closest_block(distances, count)
        assert (choice.distance, choice.block.start) == wanted[0]
        assert choice.block.size == count
        if count == 5:
            assert choice.runner_up is choice.runner_up_distance is None
        else:
            assert choice.runner_up is not None
            assert (choice.runner_up_distance, choice.runner_up.start) == wanted[1]


@pytest.mark.parametrize("count", [-1, 0, 6, 7])
def test_count_that_does_not_fit_is_refused(count: int) -> None:
    with pytest.raises(InputError, match="allowed are 1 to 5"):
        check_count(count, 6)
    with pytest.raises(InputError, match="allowed are 1 to 5"):
        closest_block(torch.zeros(6, 6), count)


def test_importing_the_package_and_its_solvers_does_not_import_torch() -> None:
    code = (
        "import sys, replaceme, replaceme.solvers, replaceme.calibration, replaceme.models;"
        "replaceme.make_solver('lstsq', ridge=0.1); print({'torch', 'transformers'} & {*sys.modules})"
    )
    assert run_python(code) == "set()"


def test_every_public_name_can_be_had() -> None:
    assert all(getattr(replaceme, name) for name in replaceme.__all__)
    assert {"prune", "calibrate", "fit", "write_checkpoint", "Block"} <= set(replaceme.__all__)
    with pytest.raises(AttributeError, match="prunee"):
        replaceme.prunee  # noqa: B018
