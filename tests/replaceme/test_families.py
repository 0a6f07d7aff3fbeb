"""Which models are recognised, and which are refused with what reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import replaceme
from replaceme.architectures import architecture_of
from replaceme.decoder import Decoder
from replaceme.edit import Edit
from replaceme.errors import InputError
from replaceme.io.loading import load
from replaceme.io.models import read_config
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint

pytestmark = pytest.mark.slow

Make = Callable[..., Any]
ROOT = Path(__file__).parents[2]
BLOCK = Block(2, 3)


class LookalikeConfig(LlamaConfig):
    model_type = "lookalike"


class Lookalike(LlamaForCausalLM):
    """A Llama of another name."""

    config_class = LookalikeConfig


class HalvedConfig(LlamaConfig):
    model_type = "halved"


class Halved(LlamaForCausalLM):
    """Named as a Llama, but each layer halves its state."""

    config_class = HalvedConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.register_forward_hook(lambda _m, _a, out: out / 2)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    for config, model in ((LookalikeConfig, Lookalike), (HalvedConfig, Halved)):
        AutoConfig.register(config.model_type, config)
        AutoModelForCausalLM.register(config, model)


def refusals(model: Any, tmp_path: Path) -> list[str]:
    """What is said of a model in memory, of its folder's content, and on editing its files."""
    folder = tmp_path / "source"
    model.save_pretrained(folder)
    attempts: list[Callable[[], Any]] = [
        lambda: Decoder.of(model),
        lambda: architecture_of(read_config(folder), "model 'x'"),
        lambda: write_checkpoint(folder, tmp_path / "out", Edit((BLOCK,)), None),
    ]
    said = []
    for attempt in attempts:
        with pytest.raises(InputError) as error:
            attempt()
        said.append(str(error.value))
    assert not (tmp_path / "out").exists()
    return said


# refused


def test_encoder_decoder_is_refused_by_name(tmp_path: Path) -> None:
    small = {"d_model": 32, "d_ff": 48, "d_kv": 16, "num_layers": 4, "num_heads": 2, "vocab_size": 512}
    for message in refusals(T5ForConditionalGeneration(T5Config(**small)), tmp_path):
        assert "unsupported architecture 't5'" in message
        assert "an encoder-decoder model" in message


@pytest.mark.parametrize("model_type", ["bert", "roformer"])
def test_encoders_are_refused(made: Make, tmp_path: Path, model_type: str) -> None:
    for message in refusals(made(model_type), tmp_path):
        assert "its tokens see those that come after them, as in an encoder" in message


@pytest.mark.parametrize(
    "model_type, settings, reason",
    [
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            "gpt2 with scale_attn_by_inverse_layer_idx=True is not supported: its attention is scaled",
        ),
    ],
)
def test_variant_that_cannot_be_pruned_exactly_is_refused(
    made: Make, tmp_path: Path, model_type: str, settings: dict[str, Any], reason: str
) -> None:
    for message in refusals(made(model_type, **settings), tmp_path):
        assert reason in message


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes", "fp8", "mxfp4"])
def test_quantised_weights_are_refused_with_the_method(made: Make, tmp_path: Path, method: str) -> None:
    source = tmp_path / "source"
    made("llama").save_pretrained(source)
    config = read_config(source) | {"quantization_config": {"quant_method": method}}
    (source / "config.json").write_text(json.dumps(config))
    message = rf"the weights are quantised \({method}\).*use the unquantised checkpoint"
    with pytest.raises(InputError, match=message):
        architecture_of(config, "model 'x'")
    with pytest.raises(InputError, match=message):
        write_checkpoint(source, tmp_path / "out", Edit((BLOCK,)), None)
    assert list(tmp_path.iterdir()) == [source]


REMOTE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path(__file__).with_name("ran").touch()
Path({trace!r}).touch()
class RemoteConfig(LlamaConfig):
    model_type = "remote"
class Remote(LlamaForCausalLM):
    config_class = RemoteConfig
"""


@pytest.fixture
def remote(made: Make, tmp_path: Path, tokenizer: Any) -> Path:
    """A Llama whose class comes with the checkpoint; it leaves a trace when its code runs."""
    folder = tmp_path / "remote"
    made("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = read_config(folder) | {
        "model_type": "remote",
        "architectures": ["Remote"],
        "auto_map": {"AutoConfig": "remote.RemoteConfig", "AutoModelForCausalLM": "remote.Remote"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "remote.py").write_text(REMOTE.format(trace=str(tmp_path / "ran")))
    return folder


def test_remote_code_does_not_run_without_the_flag(remote: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"'remote' comes with code of its own.*trust_remote_code"
    ) as error:
        load(remote)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_remote_code_with_the_flag_is_pruned_and_carried_over(
    remote: Path, tmp_path: Path, texts: list[str]
) -> None:
    model, tokenizer = load(remote, trust_remote_code=True)
    done = replaceme.prune(model, tokenizer, texts[:9], blocks=[BLOCK])
    write_checkpoint(remote, tmp_path / "out", done.fit.edit, None, trust_remote_code=True)
    again, _ = load(tmp_path / "out", trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    ids = torch.arange(2, 20)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)


# measured


@pytest.mark.parametrize(
    "model_type",
    ["lookalike", "seed_oss", "glm", "stablelm", "arcee", "ernie4_5", "gptj", "hunyuan_v1_dense"],
)
def test_a_family_that_nobody_has_listed_is_pruned_like_any_other(
    made: Make, tmp_path: Path, model_type: str, tokenizer: Any, texts: list[str]
) -> None:
    folder = tmp_path / "source"
    made(model_type, rotary_dim=8).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    done = replaceme.prune(model, tokenizer, texts[:9], blocks=[BLOCK], solver="reconstruct")
    assert done.fit.relative_error[1] < done.fit.relative_error[0]
    write_checkpoint(folder, tmp_path / "out", done.fit.edit, None)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.arange(2, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits)


def test_layers_that_are_named_like_llamas_and_return_half_are_measured_so(made: Make) -> None:
    (kind,) = Decoder.of(made("halved")).architecture.kinds
    assert (kind.projection, kind.factor) == ("mlp.down_proj", 0.5)
    assert kind.mixer is None  # the stream behind it is not the one before plus its output


def test_a_model_that_does_not_do_what_its_class_does_is_refused(made: Make) -> None:
    """One whose MLP's output was made to be squared after it was loaded."""
    model = made("llama")
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda _m, _a, out: out.square())
    with pytest.raises(InputError, match=r"does not add the output of mlp\.down_proj"):
        Decoder.of(model)
