"""The library as its documentation uses it."""

from __future__ import annotations

import copy
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
from replaceme.selection import Block, merge_adjacent
from replaceme.solvers import Lstsq, make_solver

Make = Callable[..., Any]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def output_error(model: Any, done: Any, sequences: list[list[int]], alone: Any) -> float:
    """Relative error of the state that the pruned model has where its first block was."""
    block = done.blocks[0]
    wanted = alone(model, sequences).layers[block.end - 1]
    got = alone(done.model, sequences).layers[block.start - 1]
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_lstsq_comes_closer_to_the_original_than_plain_removal(
    make_model: Make, tokenizer: Any, texts: list[str], states_alone: Any, name: str
) -> None:
    plain, fitted = (
        replaceme.prune(make_model(name), tokenizer, texts[:40], layers=3, solver=solver, max_length=32)
        for solver in ("uidl", "lstsq")
    )
    assert plain.blocks == fitted.blocks
    assert plain.fit.relative_error[1] == fitted.fit.relative_error[0]
    sequences = Batches(tokenize(texts[:40], tokenizer, 32)).held_back(4096)[0].sequences
    assert fitted.tokens == sum(map(len, sequences))
    for done in (plain, fitted):
        measured = output_error(make_model(name), done, sequences, states_alone)
        assert measured == pytest.approx(done.fit.relative_error[1], rel=1e-4)
    assert fitted.fit.relative_error[1] < 0.95 * plain.fit.relative_error[1]


@pytest.mark.parametrize(
    "solver", ["uidl", "lstsq", "cosine", "relative", "refit", "reconstruct", Lstsq(ridge=0.1)], ids=str
)
def test_pruned_model_is_saved_as_an_ordinary_checkpoint(
    make_model: Make, tokenizer: Any, texts: list[str], tmp_path: Path, solver: Any
) -> None:
    from transformers import AutoModelForCausalLM

    done = replaceme.prune(make_model(), tokenizer, texts[:20], layers=3, solver=solver)
    done.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([tokenizer(texts[0])["input_ids"]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, done.model(ids).logits)
    assert again.config.num_hidden_layers == len(again.model.layers) == 5


@pytest.mark.parametrize(
    "blocks, kept",
    [
        ([Block(2, 6)], [0, 1, 6, 7]),
        ([(2, 4), (6, 7)], [0, 1, 4, 5, 7]),
        ([Block(6, 7), Block(2, 4)], [0, 1, 4, 5, 7]),
        ([Block(2, 4), Block(4, 6)], [0, 1, 6, 7]),
    ],
)
def test_given_blocks_are_used_as_they_are(
    make_model: Make, tokenizer: Any, texts: list[str], blocks: list[Block], kept: list[int]
) -> None:
    model = make_model()
    layers = [model.model.layers[i] for i in kept]
    done = replaceme.prune(model, tokenizer, texts[:8], blocks=blocks)
    assert done.model is model
    assert done.blocks == merge_adjacent(Block(*block) for block in blocks)
    assert done.choice is None
    assert list(model.model.layers) == layers


def test_dropout_of_a_model_in_training_is_off_and_on_again_afterwards(
    make_model: Make, tokenizer: Any, texts: list[str]
) -> None:
    def prune(training: bool) -> Any:
        model = make_model(attention_dropout=0.5).train(training)
        model.model.norm.eval()
        return replaceme.prune(model, tokenizer, texts[:20], layers=2, solver="lstsq", max_length=32)

    done, wanted = prune(True), prune(False)
    assert done.fit.loss == wanted.fit.loss
    assert transform_of(done).equal(transform_of(wanted))
    assert done.model.training
    assert done.model.model.layers[0].self_attn.training
    assert not done.model.model.norm.training


def test_chat_messages_are_calibration_texts_too(
    make_model: Make, tokenizer: Any, texts: list[str]
) -> None:
    chats = [[{"role": "user", "content": text}] for text in texts[:9]]
    done = replaceme.prune(make_model(), tokenizer, chats, layers=1)
    rendered = [tokenizer(f"<|begin|>user: {text}<|end|>")["input_ids"] for text in texts[:9]]
    assert done.tokens == sum(map(len, rendered))


def transform_of(done: Any) -> Tensor:
    (transform,) = done.fit.edit.transforms.values()
    return transform


def test_result_does_not_depend_on_the_batch_size(
    make_model: Make, tokenizer: Any, texts: list[str]
) -> None:
    one, many = (
        replaceme.prune(make_model(), tokenizer, texts, layers=3, solver="lstsq", batch_size=size)
        for size in (1, 16)
    )
    torch.testing.assert_close(transform_of(one), transform_of(many), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("solver", ["lstsq", "cosine"])
@pytest.mark.parametrize("side, pad", [("left", None), ("left", "<|end|>"), ("right", "<|begin|>")])
def test_result_does_not_depend_on_how_the_tokenizer_pads(
    make_model: Make, tokenizer: Any, texts: list[str], solver: str, side: str, pad: str | None
) -> None:
    """A missing pad token included."""
    padding = copy.deepcopy(tokenizer)
    padding.padding_side, padding.pad_token = side, pad
    assert tokenizer.pad_token is None
    wanted, got = (
        replaceme.prune(make_model(), chosen, texts[:20], layers=3, solver=solver)
        for chosen in (tokenizer, padding)
    )
    assert got.blocks == wanted.blocks
    assert torch.equal(transform_of(got), transform_of(wanted))


def test_seed_draws_the_tokens(make_model: Make, tokenizer: Any, texts: list[str]) -> None:
    solver = make_solver("cosine", tokens=100)
    first, again, other = (
        replaceme.prune(
            make_model(), tokenizer, texts[:20], blocks=[Block(2, 4)], solver=solver, seed=seed
        )
        for seed in (1, 1, 2)
    )
    assert torch.equal(transform_of(first), transform_of(again))
    assert not torch.equal(transform_of(first), transform_of(other))


def test_one_calibration_serves_several_counts_and_solvers(
    make_model: Make, tokenizer: Any, texts: list[str]
) -> None:
    batches = Batches(tokenize(texts[:30], tokenizer, 64))
    solvers = [make_solver(name) for name in ("lstsq", "relative", "cosine", "refit")]
    model = make_model()
    together = replaceme.calibrate(model, batches, counts=[1, 2, 4], solvers=solvers)
    for count, choice in together.choices.items():
        for solver in solvers:
            alone = replaceme.calibrate(model, batches, counts=[count], solvers=[solver])
            assert alone.choices[count] == choice
            got, wanted = (
                replaceme.fit(solver, calibration, choice.blocks) for calibration in (together, alone)
            )
            assert got.loss == pytest.approx(wanted.loss, rel=1e-6)
            assert got.relative_error == pytest.approx(wanted.relative_error, rel=1e-6)
    chosen = {block for choice in together.choices.values() for block in choice.blocks}
    assert set(together.statistics) == chosen


def test_a_matrix_of_counts_and_moment_solvers_costs_two_passes(
    make_model: Make, tokenizer: Any, texts: list[str]
) -> None:
    model, batches = make_model(), Batches(tokenize(texts[:9], tokenizer, 64), 3)
    passes: list[int] = []
    handle = model.model.layers[0].mlp.register_forward_hook(
        lambda _m, _a, out: passes.extend([1] * (out.shape[1] > 8))  # not the few tokens of a check
    )
    solvers = [make_solver(name) for name in ("uidl", "lstsq", "relative", "cosine", "refit")]
    calibration = replaceme.calibrate(model, batches, counts=[1, 3, 5], solvers=solvers)
    for choice in calibration.choices.values():
        for solver in solvers:
            replaceme.fit(solver, calibration, choice.blocks)
    handle.remove()
    assert len(passes) == 2 * len(batches)


@pytest.mark.parametrize("request_", [{}, {"layers": 2, "blocks": [Block(1, 3)]}])
def test_layers_or_blocks_but_not_both(llama: Any, tokenizer: Any, request_: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="either the number of layers to remove or the blocks"):
        replaceme.prune(llama, tokenizer, ["Some words."], **request_)


@pytest.mark.parametrize(
    "request_, message",
    [
        ({"layers": 0}, "0 layers cannot be removed from a model of 8; allowed are 1 to 7"),
        ({"layers": 8}, "8 layers cannot be removed from a model of 8; allowed are 1 to 7"),
        ({"layers": 3, "num_blocks": 2}, "3 layers cannot be removed in 2 blocks of the same size"),
        ({"layers": 2, "num_blocks": 0}, "num_blocks is at least 1; got 0"),
        ({"layers": 2, "selector": "angle"}, "unknown selector 'angle'; did you mean 'angular'"),
        ({"blocks": [Block(0, 2)]}, "block '0:2' does not fit a model of 8 layers: START is at least 1"),
        ({"blocks": [Block(5, 9)]}, "block '5:9' does not fit a model of 8 layers"),
        ({"blocks": [Block(4, 4)]}, "block '4:4' does not fit a model of 8 layers"),
        ({"blocks": [Block(1, 4), Block(3, 5)]}, r"the blocks \[1, 4\) and \[3, 5\) overlap"),
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


def test_importing_the_package_and_its_solvers_does_not_import_torch() -> None:
    code = (
        "import sys, replaceme, replaceme.solvers, replaceme.calibration, replaceme.io.models;"
        "replaceme.make_solver('lstsq', ridge=0.1); print({'torch', 'transformers'} & {*sys.modules})"
    )
    assert run_python(code) == "set()"


def test_every_public_name_can_be_had() -> None:
    assert all(getattr(replaceme, name) for name in replaceme.__all__)
    assert {"prune", "calibrate", "fit", "write_checkpoint", "Block", "Edit"} <= set(replaceme.__all__)
    with pytest.raises(AttributeError, match="prunee"):
        replaceme.prunee  # noqa: B018
