"""The held-back tokens, and the loss on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import replaceme
from replaceme import logits
from replaceme.calibration import Batches, tokenize
from replaceme.decoder import Decoder
from replaceme.edit import Edit
from replaceme.evaluation import HeldBack
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint

Make = Callable[..., Any]
BLOCKS = (Block(1, 2), Block(3, 5))
SOME_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
VARIANTS = [
    *(("llama", solver) for solver in ("uidl", "lstsq", "relative", "cosine", "refit", "reconstruct")),
    *(("phi", solver) for solver in ("lstsq", "refit", "reconstruct")),
    *(("gpt2", solver) for solver in ("lstsq", "refit", "reconstruct")),
    ("granite", "reconstruct"),
    ("mixtral", "lstsq"),
    ("gemma2", "uidl"),
    ("gemma2", "reconstruct"),
]


@torch.no_grad()
def cross_entropy(model: Any, sequences: list[list[int]]) -> float:
    """Mean over predicted tokens, by transformers' own loss of single sequences."""
    total, count = 0.0, 0
    for ids in sequences:
        tokens = torch.tensor([ids])
        total += float(model(tokens, labels=tokens, use_cache=False).loss) * (len(ids) - 1)
        count += len(ids) - 1
    return total / count


@torch.no_grad()
def divergences(intact: Any, model: Any, sequences: list[list[int]]) -> np.ndarray[Any, Any]:
    """KL(intact ‖ model) at every position, from transformers' own logits of single sequences."""
    found = []
    for ids in sequences:
        logs, own = (
            m(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
            for m in (intact, model)
        )
        found.append((logs.exp() * (logs - own)).sum(-1).numpy())
    return np.concatenate(found)


def reload(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("family, solver", VARIANTS)
def test_loss_is_the_cross_entropy_of_the_saved_model(
    save_model: Callable[..., Path], sequences: list[list[int]], tmp_path: Path, family: str, solver: str
) -> None:
    source = save_model(tmp_path / "source", family, num_hidden_layers=6, **SOME_EXPERTS)
    made = replaceme.make_solver(solver)
    calibration = replaceme.calibrate(
        reload(source), Batches(sequences, 8), blocks=[BLOCKS], solvers=[made]
    )
    fit = replaceme.fit(made, calibration, BLOCKS)
    held = calibration.held_back.batches.sequences
    write_checkpoint(source, tmp_path / "plain", Edit(BLOCKS), None)
    write_checkpoint(source, tmp_path / "fitted", fit.edit, None)
    assert fit.loss is not None
    losses = (fit.intact_loss, *fit.loss)
    for loss, name in zip(losses, ("source", "plain", "fitted"), strict=True):
        assert loss == pytest.approx(cross_entropy(reload(tmp_path / name), held), rel=1e-5)
    assert len(set(losses)) == (2 if solver == "uidl" else 3)
    wanted = divergences(reload(tmp_path / "source"), reload(tmp_path / "fitted"), held)
    assert fit.divergence
    assert fit.divergence.positions == len(wanted) == sum(map(len, held))
    assert fit.divergence.mean == pytest.approx(wanted.mean(), abs=1e-5)
    assert fit.divergence.p99 == pytest.approx(np.quantile(wanted, 0.99), abs=1e-5)
    assert wanted.mean() > 1e-3


def test_loss_of_a_half_precision_model_is_that_of_the_rounded_checkpoint(
    save_model: Callable[..., Path], sequences: list[list[int]], tmp_path: Path
) -> None:
    source = save_model(tmp_path / "source", dtype="bfloat16")
    made = replaceme.make_solver("refit")
    calibration = replaceme.calibrate(
        reload(source), Batches(sequences, 8), blocks=[BLOCKS], solvers=[made]
    )
    fit = replaceme.fit(made, calibration, BLOCKS)
    write_checkpoint(source, tmp_path / "out", fit.edit, None)
    saved = reload(tmp_path / "out")
    assert saved.dtype == torch.bfloat16
    assert fit.loss is not None
    wanted = cross_entropy(saved, calibration.held_back.batches.sequences)
    assert fit.loss[1] == pytest.approx(wanted, rel=2e-3)


def test_measuring_leaves_the_model_as_it_was(llama: Any, sequences: list[list[int]]) -> None:
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    transform = 2 * torch.eye(64, dtype=torch.float64)
    judge = HeldBack(Decoder.of(llama), Batches(sequences[:5]))
    assert judge.loss(Edit(BLOCKS, {2: transform})) != judge.loss(Edit(BLOCKS))
    assert judge.intact == judge.loss(Edit())
    assert len(llama.model.layers) == 8
    assert all(torch.equal(t, before[name]) for name, t in llama.state_dict().items())


def test_no_loss_without_a_predicted_token(llama: Any) -> None:
    for sequences in ([], [[5], [7]]):
        judge = HeldBack(Decoder.of(llama), Batches(sequences))
        assert judge.loss(Edit(BLOCKS)) is judge.intact is judge.judge(Edit(BLOCKS)) is None


def test_logits_are_held_for_a_few_positions_at_a_time(
    llama: Any, sequences: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = HeldBack(Decoder.of(llama), Batches(sequences[:5]))
    whole = judge.judge(Edit(BLOCKS))
    monkeypatch.setattr(logits, "CPU_LOGITS", 3 * 512)
    parts = judge.judge(Edit(BLOCKS))
    assert whole and whole.divergence and parts and parts.divergence
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.divergence.mean == pytest.approx(whole.divergence.mean, rel=1e-4)
    assert parts.divergence.positions == whole.divergence.positions


# which tokens


@pytest.mark.parametrize("tokens", [1, 100, 300, 10_000])
def test_held_back_part_is_small_even_and_disjoint(tokens: int) -> None:
    sequences = [[i] * 20 for i in range(95)]
    fitted, held = Batches(sequences, 4, 7).held_back(tokens)
    assert sorted(fitted.sequences + held.sequences) == sequences
    assert held.tokens == min(-(-tokens // 20) * 20, 9 * 20)
    assert (held.batch_size, held.seed) == (fitted.batch_size, fitted.seed) == (4, 7)
    gaps = [b[0] - a[0] for a, b in zip(held.sequences, held.sequences[1:], strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert fitted.sequences == [ids for ids in sequences if ids not in held.sequences]


@pytest.mark.parametrize("count, tokens", [(9, 100), (0, 100), (50, 0)])
def test_nothing_is_held_back_of_few_sequences_or_on_request(count: int, tokens: int) -> None:
    sequences = [[i] * 20 for i in range(count)]
    fitted, held = Batches(sequences).held_back(tokens)
    assert fitted.sequences == sequences
    assert held.sequences == []


def test_sequences_of_so_many_tokens_are_taken_evenly() -> None:
    batches = Batches([[1] * 5, [2] * 3, [3] * 4], 2, 7)
    wanted = {1: 1, 5: 1, 7: 1, 8: 2, 11: 2, 12: 3, 100: 3}
    assert {tokens: len(batches.evenly(tokens)) for tokens in wanted} == {
        tokens: -(-count // 2) for tokens, count in wanted.items()
    }
    for tokens, count in wanted.items():
        assert batches.evenly(tokens).sequences == batches.sequences[:count]
    assert Batches([[i] for i in range(12)]).evenly(3).sequences == [[0], [4], [8]]


def test_fit_does_not_see_what_is_held_back(make_model: Make, tokenizer: Any, texts: list[str]) -> None:
    """Other text in the held-back places changes the losses and nothing else."""
    sequences = tokenize(texts[:40], tokenizer, 32)
    held = Batches(sequences).held_back(4096)[1].sequences
    assert len(held) == 4
    changed = [ids[::-1] if ids in held else ids for ids in sequences]
    solver = replaceme.make_solver("lstsq")
    one, other = (
        replaceme.fit(
            solver,
            replaceme.calibrate(make_model(), Batches(rows, 4), blocks=[BLOCKS], solvers=[solver]),
            BLOCKS,
        )
        for rows in (sequences, changed)
    )
    assert all(torch.equal(t, other.edit.transforms[i]) for i, t in one.edit.transforms.items())
    assert one.relative_error == other.relative_error
    assert one.loss != other.loss
    assert one.intact_loss != other.intact_loss
