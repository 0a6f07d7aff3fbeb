"""What ``plan --estimate`` says that scoring will take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

WriteSuite = Callable[..., Path]


def test_what_a_variant_shares_is_told_by_its_solver_and_not_by_its_label(
    write_suite: WriteSuite, content: dict[str, Any], tmp_path: Path
) -> None:
    """Two of 8 layers are cut behind layer 2. With nothing fitted that layer serves the baseline and the
    variant, and 3 more follow behind the gap; a solver changes layer 2 as well."""
    from bench.run.estimate import estimate
    from bench.suite.matrix import expand
    from bench.suite.suite import load

    def layers(solver: dict[str, Any]) -> float:
        plan = expand(
            load(
                write_suite(
                    prune={"layers": [2], "solvers": [solver]},
                    score=content["score"] | {"tasks": ["colours"], "limit": 2},
                )
            )
        )
        (found,) = estimate(plan, tmp_path / "out", lambda _: None)
        return found.token_layers / found.tokens

    assert layers({"name": "uidl", "as": "plain"}) == 8 + 3
    assert layers({"name": "lstsq", "as": "uidl"}) == 8 + 4


def test_texts_are_counted_with_their_prompts(
    write_suite: WriteSuite, content: dict[str, Any], tmp_path: Path
) -> None:
    from bench.run.estimate import estimate
    from bench.suite.matrix import expand
    from bench.suite.suite import load

    task = {
        "task": "told",
        "output_type": "generate_until",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "red",
        "repeats": 2,
        "generation_kwargs": {"max_gen_toks": 7, "until": ["."]},
    }
    (tmp_path / "told.yaml").write_text(yaml.safe_dump(task))
    (tmp_path / "rows.jsonl").write_text('{"question": "The box"}\n' * 3)
    score = {"tasks": ["told"], "include_path": str(tmp_path)}
    plan = expand(load(write_suite(prune={"layers": [2], "solvers": ["uidl"]}, score=score)))
    (found,) = estimate(plan, tmp_path / "out", lambda _: None)
    prompt = len(AutoTokenizer.from_pretrained(content["models"][0])("The box")["input_ids"])
    assert (found.variants, found.requests, found.texts) == (2, 0, 6)
    assert (found.written, found.tokens) == (6 * 7, 6 * prompt)
    assert found.token_layers == 6 * prompt * (8 + 6)
    assert found.seconds > 0


TEXT = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
TOWERS = {
    "gemma3": {"text_config": TEXT | {"num_hidden_layers": 1}, "image_token_index": 500},
    "qwen2_5_vl": {
        "text_config": TEXT | {"num_hidden_layers": 1, "rope_parameters": ROPE},
        "vision_config": {"out_hidden_size": 64},
        "image_token_id": 500,
        "video_token_id": 501,
        "vision_start_token_id": 502,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", TOWERS)
def test_towers_of_full_size_take_no_memory_and_text_passes(model_type: str) -> None:
    """Those that are the configs' own, behind small language models."""
    from bench.run.stand_in import build_stand_in
    from replaceme.calibration import Batch
    from replaceme.decoder import Decoder

    config = AutoConfig.for_model(model_type, **TOWERS[model_type])
    with torch.device("meta"):
        whole = AutoModelForImageTextToText.from_config(config)
    model = build_stand_in(config, torch.float32, "cpu")
    assert sum(p.numel() for p in whole.parameters()) > 5e7
    assert sum(p.numel() for p in model.parameters()) < 1e6
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    batch = Batch.of([[*range(3, 15)]])
    states, _ = Decoder.of(model).enter(batch)
    assert states.shape == (1, 12, TEXT["hidden_size"])
    logits = model(input_ids=batch.ids, use_cache=False).logits
    assert logits.shape == (1, 12, TEXT["vocab_size"])
    assert logits.isfinite().all()
    assert logits.std(-1).min() > 0


@pytest.mark.slow
def test_model_with_images_is_estimated_as_its_language_model_is(
    write_suite: WriteSuite, content: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    from bench.run.estimate import estimate
    from bench.suite.matrix import expand
    from bench.suite.suite import load

    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    text = TEXT | {"num_hidden_layers": 8, "vocab_size": len(tokenizer)}
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision, image_token_index=500
    )
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "seeing")
    tokenizer.save_pretrained(tmp_path / "seeing")
    score = content["score"] | {"tasks": ["colours"], "limit": 2}
    suite = write_suite(
        models=[str(tmp_path / "seeing")], prune={"layers": [2], "solvers": ["uidl"]}, score=score
    )
    (found,) = estimate(expand(load(suite)), tmp_path / "out", lambda _: None)
    assert found.token_layers / found.tokens == 8 + 3
    assert found.seconds > 0
