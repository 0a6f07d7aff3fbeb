"""What ``plan --estimate`` says that scoring will take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoTokenizer

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
