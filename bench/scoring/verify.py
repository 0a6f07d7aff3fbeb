"""Whether answers of one pass are those of lm-eval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.scoring.answers import Answers
from bench.scoring.fork import Answer
from bench.scoring.one_pass import OnePass
from bench.scoring.sweep import Sweep
from bench.scoring.trees import Request

ABSOLUTE, RELATIVE = 1e-4, 1e-5  # nats, and share of the log-likelihood: what float32 rounds
SPREADS = 4  # times what lm-eval's own answers differ by between two batch sizes
REQUESTS, TOKENS = 12, 4096  # of a sample, at most


@dataclass(frozen=True)
class Comparison:
    """Answers to the same requests, in one pass and by lm-eval.

    Attributes:
        requests: how many.
        difference: largest difference of two log-likelihoods, in nats.
        spread: the same between lm-eval's own answers with two batch sizes.
        flips: requests of which only one side says that the continuation is the likeliest.
        agree: whether each difference is within ``ABSOLUTE`` + ``RELATIVE`` · |log-likelihood| +
            ``SPREADS`` · ``spread``.
    """

    requests: int
    difference: float
    spread: float
    flips: int
    agree: bool

    @classmethod
    def of(
        cls, answers: Sequence[Answer], theirs: Sequence[Answer], with_other_batches: Sequence[Answer]
    ) -> Comparison:
        pairs = list(zip(answers, theirs, strict=True))
        spread = max(
            abs(a.loglikelihood - b.loglikelihood)
            for a, b in zip(theirs, with_other_batches, strict=True)
        )
        differences = [abs(a.loglikelihood - b.loglikelihood) for a, b in pairs]
        agree = all(
            difference <= ABSOLUTE + RELATIVE * abs(b.loglikelihood) + SPREADS * spread
            for difference, (_, b) in zip(differences, pairs, strict=True)
        )
        flips = sum(a.greedy != b.greedy for a, b in pairs)
        return cls(len(pairs), max(differences), spread, flips, agree)


def sample(requests: Sequence[Request]) -> list[Request]:
    """A few requests of different lengths, the longest that fit among them."""
    distinct = sorted(set(requests), key=lambda request: len(request.tokens))
    wanted = distinct[:: max(1, -(-len(distinct) // REQUESTS))]
    tokens = 0
    for count, request in enumerate(wanted):
        tokens += len(request.tokens)
        if tokens > TOKENS:
            return wanted[: max(1, count)]
    return wanted


def check(one_pass: OnePass, variant: str, requests: Sequence[Request], batch_size: int) -> Comparison:
    """Compare a variant's answers to some requests with those that lm-eval's forward gives."""
    sweep = Sweep(one_pass.sweep.fork, Answers())
    sweep.run([variant], requests)
    answers = [sweep.known.of(variant, request) for request in requests]
    theirs = one_pass.answered_by_lm_eval(variant, list(requests), batch_size)
    other = one_pass.answered_by_lm_eval(variant, list(requests), 1)
    return Comparison.of(answers, theirs, other)
