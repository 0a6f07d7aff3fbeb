"""Tokenizers that lack tokens which lm-eval wants, or know more than the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from bench.scoring.answering import AnsweringLM
from bench.scoring.beside import dependence
from bench.scoring.checkpoint import CheckpointScorer
from replaceme.errors import InputError
from replaceme.io import loading

PAIRS = [("The box is", " red"), ("The box over there", " is quite another one")]
UNKNOWN = r"a text holds token \d+ of the tokenizer, but the model has 300 \(0 to 299\)"


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, given, i) for i, given in enumerate(arguments)]


@pytest.fixture(scope="module")
def plain(
    make_model: Callable[..., Any], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model whose tokenizer has neither BOS nor EOS."""
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "plain"
    none = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    make_model(num_hidden_layers=2, **none).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of fewer tokens than its tokenizer knows."""
    return save_model(tmp_path_factory.mktemp("models") / "small", vocab_size=300, num_hidden_layers=2)


def lm(folder: Path) -> AnsweringLM:
    return CheckpointScorer(folder, dtype="float32", device="cpu", batch_size=2).lm


def by_hand(folder: Path, context: str, goal: str) -> float:
    """Log-likelihood of a continuation, from the logits of the whole text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    first, ids = len(tokenizer(context)["input_ids"]), tokenizer(context + goal)["input_ids"]
    with torch.no_grad():
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logs[i - 1, ids[i]]) for i in range(first, len(ids)))


def test_a_tokenizer_without_bos_and_eos_scores_what_has_a_context(plain: Path) -> None:
    found = lm(plain).loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    wanted = [by_hand(plain, *pair) for pair in PAIRS]
    assert [value for value, _ in found] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("loglikelihood", ("", " red"), "has neither a BOS nor an EOS token"),
        ("loglikelihood_rolling", ("The box is red.",), "has neither a BOS nor an EOS token"),
        ("generate_until", ("The box is", {"max_gen_toks": 2}), "has no EOS token"),
    ],
)
def test_what_needs_a_token_that_is_not_there_says_which(
    plain: Path, kind: str, arguments: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(InputError, match=f"the tokenizer of {plain} {said}"):
        getattr(lm(plain), kind)(asked(kind, arguments), disable_tqdm=True)


def test_a_model_that_lacks_the_padding_token_writes_one_text_at_a_time(plain: Path) -> None:
    model = lm(plain)
    assert model.tokenizer.pad_token_id == 512  # which lm-eval adds to the 512 that there are
    texts = [(text, {"max_gen_toks": 2, "until": []}) for text in ("One", "Two and a few more")]
    reason = dependence(model, asked("generate_until", *texts))
    assert reason == "the model lacks the token that its tokenizer fills up with"


@pytest.mark.parametrize("text", ["The colour of the box is", "There is some other text beside it"])
def test_a_text_beyond_the_models_vocabulary_is_refused_with_both_numbers(
    small: Path, text: str
) -> None:
    model, tokenizer = loading.load(small)
    assert max(tokenizer(text)["input_ids"]) >= 300
    with pytest.raises(InputError, match=UNKNOWN):
        model(**tokenizer(text, return_tensors="pt"))
    with pytest.raises(InputError, match=UNKNOWN):
        lm(small).loglikelihood(asked("loglikelihood", (text, " red")), disable_tqdm=True)
    assert model(torch.tensor([[298, 299]])).logits.shape == (1, 2, 300)
