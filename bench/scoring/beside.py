"""Whether what a model answers to a request depends on the requests beside it in a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.scoring.answering import KINDS, AnsweringLM
from bench.scoring.float32 import in_float32
from bench.scoring.verify import ABSOLUTE, RELATIVE
from replaceme.decoder import Decoder

if TYPE_CHECKING:
    import torch
    from lm_eval.api.instance import Instance

    from bench.scoring.trees import Request


def dependence(lm: AnsweringLM, instances: list[Instance]) -> str | None:
    """Why requests are to be answered one at a time, or ``None`` where a batch gives the same.

    By what the config says of their lengths, and by trying the shortest beside the longest.
    """
    decoder = Decoder.of(lm.model)
    scored = lm.requests(instances)
    generated = [instance for instance in instances if instance.request_type not in KINDS]
    if generated and lm.tokenizer.pad_token_id >= lm.model.get_input_embeddings().weight.shape[0]:
        return "the model lacks the token that its tokenizer fills up with"
    lengths = [len(request.tokens) for request in scored]
    prompts = sorted((lm.tok_encode(instance.args[0]) for instance in generated), key=len)
    lengths += [min(_end(lm, instance), lm.max_length) for instance in generated]
    lengths += map(len, prompts)
    if len({decoder.lengths.regime(length) for length in lengths}) > 1:
        return decoder.lengths.describe()
    with in_float32(decoder):
        found = [_scored_beside(lm, scored)] if scored else []
        found += [_generated_beside(lm, prompts, max(lengths))] if prompts else []
    alike = all(units <= 1 for units in found)
    return None if alike else "it answers a request differently beside a longer one"


def _end(lm: AnsweringLM, instance: Instance) -> int:
    """Tokens of a prompt and of the longest answer to it."""
    from lm_eval.models.utils import normalize_gen_kwargs

    most = normalize_gen_kwargs(dict(instance.args[1]), lm.max_gen_toks)["max_gen_toks"]
    return len(lm.tok_encode(instance.args[0])) + most


def _scored_beside(lm: AnsweringLM, requests: list[Request]) -> float:
    """How far the answers to the shortest and the longest request are from those to each by itself,
    in units of what float32 rounds."""
    ordered = sorted(set(requests), key=lambda request: len(request.tokens))
    ends = [ordered[0], ordered[-1]]
    pairs = zip(lm.answers(ends, 2), lm.answers(ends, 1), strict=True)
    return max(
        abs(a.loglikelihood - b.loglikelihood) / (ABSOLUTE + RELATIVE * abs(b.loglikelihood))
        for a, b in pairs
    )


def _generated_beside(lm: AnsweringLM, prompts: list[list[int]], tokens: int) -> float:
    """The same of the first token after the shortest prompt, beside a prompt of so many tokens."""
    short, most = prompts[0], min(tokens, lm.max_length) - 1
    long = (prompts[-1] * (1 + most // max(1, len(prompts[-1]))))[:most]
    short = short[-most:]
    if not short or len(long) <= len(short):
        return 0.0
    alone, beside = (_next_token(lm, rows)[0] for rows in ([short], [short, long]))
    return float(((alone - beside).abs() / (ABSOLUTE + RELATIVE * alone.abs())).amax())


def _next_token(lm: AnsweringLM, rows: list[list[int]]) -> torch.Tensor:
    """Log-probabilities [rows, vocabulary] of the token after each row, padded as ``generate`` wants."""
    import torch

    width = max(map(len, rows))
    pad = lm.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=lm.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=lm.device)
    settings: dict[str, Any] = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": pad}
    done = lm.model.generate(
        input_ids=ids, attention_mask=mask, output_logits=True, return_dict_in_generate=True, **settings
    )
    return done.logits[0].float().log_softmax(-1)
