"""Small real models, made here: nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

VOCABULARY = 512
SPECIAL = ["<|begin|>", "<|end|>"]
CHAT = "{% for m in messages %}<|begin|>{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-examples", type=int, help="cases of each fuzz test, other ones every time")
    parser.addoption("--kills", type=int, default=3, help="of runs on a cluster, at random moments")


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
    settings.load_profile("untimed")
    if examples := config.getoption("--fuzz-examples"):
        settings.register_profile("fuzz", max_examples=examples)
        settings.load_profile("fuzz")


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the user's caches is read or written, in subprocesses neither."""
    folder = tmp_path_factory.mktemp("caches")
    os.environ["REPLACEME_CACHE"] = str(folder / "replaceme")
    os.environ["HF_HOME"] = str(folder / "huggingface")


@pytest.fixture(scope="session")
def prose() -> str:
    """The calibration text that ships with the package."""
    return (resources.files("replaceme") / "data" / "prose.txt").read_text("utf-8")


@pytest.fixture(scope="session")
def texts(prose: str) -> list[str]:
    """Sixty texts of different lengths."""
    paragraphs = [part for part in prose.split("\n\n") if len(part) > 40]
    return [text[: 60 + 7 * (i % 20)] for i, text in enumerate(paragraphs[:60])]


@pytest.fixture(scope="session")
def tokenizer(prose: str) -> Any:
    """A byte-level BPE tokenizer of 512 tokens with a chat template and no pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([prose[:40_000]], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=SPECIAL[0], eos_token=SPECIAL[1])
    wrapped.chat_template = CHAT
    return wrapped


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """Makes a small random model: ``make_model("qwen3", num_hidden_layers=4)``.

    Weights are larger than at a usual initialisation, so that layers differ from each other.
    """

    def make(model_type: str = "llama", **changes: Any) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        settings: dict[str, Any] = {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 8,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "max_position_embeddings": 256,
            "initializer_range": 0.15,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": None,
        }
        config = AutoConfig.for_model(model_type, **(settings | changes))
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()

    return make


@pytest.fixture(scope="session")
def save_model(make_model: Callable[..., Any], tokenizer: Any) -> Callable[..., Path]:
    """Saves a small random model with its tokenizer: ``save_model(folder, dtype="bfloat16", …)``."""

    def save(folder: Path, model_type: str = "llama", dtype: str = "float32", **changes: Any) -> Path:
        import torch

        make_model(model_type, **changes).to(getattr(torch, dtype)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def tiny(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a float32 Llama of 8 layers; not to be changed."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny")
