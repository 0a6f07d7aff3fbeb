"""Whether answers are those to each request by itself.

The judge is lm-eval's own forward with a batch size of 1: batches may share an error. Whether two ways
compute the same is decided in float32, with the weights as they are; half precision may then only add
what its rounding explains, and that is seen from float32 as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from math import hypot, isfinite, sqrt
from typing import TYPE_CHECKING

from bench.scoring.answers import Answers
from bench.scoring.float32 import in_float32
from bench.scoring.heads import Answer
from bench.scoring.one_pass import OnePass
from bench.scoring.sweep import Sweep
from bench.scoring.trees import Request
from replaceme.lengths import ALIKE, Lengths

if TYPE_CHECKING:
    import torch

ABSOLUTE, RELATIVE = 1e-4, 1e-5  # nats, and share of the log-likelihood: what float32 rounds
ROUNDING = 4  # times lm-eval's own distance from float32, in half precision
REQUESTS, TOKENS = 12, 4096  # of a sample; its ends may be longer


@dataclass(frozen=True)
class Agreement:
    """Answers to the same requests, and to each by itself.

    Attributes:
        requests: how many.
        difference: largest difference of two log-likelihoods in float32, in nats.
        flips: requests of which only one side says, in float32, that the continuation is the likeliest.
        agree: whether there is no flip, each difference is within ``ABSOLUTE`` + ``RELATIVE`` ·
            |log-likelihood|, and ``rounding`` is explained.
        rounding: in half precision, the root mean square distance in nats from float32 of the answers,
            and of lm-eval's to each request by itself.
    """

    requests: int
    difference: float
    flips: int
    agree: bool
    rounding: tuple[float, float] | None = None

    @property
    def disagreement(self) -> str:
        """By how much, as part of a sentence."""
        if self.difference > ABSOLUTE or self.rounding is None:
            return f"differs by {self.difference:.2g} nats on {self.requests} requests"
        return f"is {self.rounding[0]:.2g} nats off float32 and lm-eval {self.rounding[1]:.2g}, and so"

    @classmethod
    def of(cls, answers: Sequence[Answer], alone: Sequence[Answer]) -> Agreement:
        pairs = list(zip(answers, alone, strict=True))
        differences = [abs(a.loglikelihood - b.loglikelihood) for a, b in pairs]
        agree = all(
            difference <= ABSOLUTE + RELATIVE * abs(b.loglikelihood)
            for difference, (_, b) in zip(differences, pairs, strict=True)
        )
        flips = sum(a.greedy != b.greedy for a, b in pairs)
        largest = max(differences) if all(map(isfinite, differences)) else float("nan")
        return cls(len(pairs), largest, flips, agree and not flips)

    def with_rounding(
        self, answers: Sequence[Answer], alone: Sequence[Answer], exact: Sequence[Answer], unit: float
    ) -> Agreement:
        """With what half precision adds.

        Args:
            exact: what float32 answers to each request by itself.
            unit: distance of 1 from the next larger number of the dtype.
        """
        ours, theirs = _distance(answers, exact), _distance(alone, exact)
        last = unit * _distance(exact, [Answer(0.0, False)] * len(exact))
        return replace(
            self, rounding=(ours, theirs), agree=self.agree and ours <= ROUNDING * theirs + last
        )


def _distance(answers: Sequence[Answer], others: Sequence[Answer]) -> float:
    """Root mean square."""
    pairs = zip(answers, others, strict=True)
    return hypot(*(a.loglikelihood - b.loglikelihood for a, b in pairs)) / sqrt(len(answers))


def sample(requests: Sequence[Request], lengths: Lengths = ALIKE) -> list[Request]:
    """A few requests: the shortest and the longest, those on both sides of every length beyond which
    the model computes otherwise, some in between, and of each the one that shares most with it."""
    distinct = sorted(set(requests))
    following = dict(pairwise(distinct))
    groups = lengths.groups(sorted(distinct, key=_length), _length)
    ends = list(dict.fromkeys(end for group in groups for end in (group[0], group[-1])))
    if len(ends) > REQUESTS:
        ends = [ends[i * (len(ends) - 1) // (REQUESTS - 1)] for i in range(REQUESTS)]
    between = sorted(distinct, key=_length)[:: max(1, -(-2 * len(distinct) // REQUESTS))]
    chosen, tokens = list(ends), sum(map(_length, ends))
    for request in [*ends, *between]:
        for one in (request, following.get(request, request)):
            fits = len(chosen) < REQUESTS and tokens + len(one.tokens) <= TOKENS
            if one not in chosen and fits:
                chosen.append(one)
                tokens += len(one.tokens)
    return sorted(chosen, key=_length)


def _length(request: Request) -> int:
    return len(request.tokens)


def check(one_pass: OnePass, variant: str, samples: Sequence[Sequence[Request]]) -> list[Agreement]:
    """Compare a variant's answers to some requests with those of lm-eval's forward to each by itself.

    Args:
        samples: of several tasks, each of which is judged by itself.
    """
    fork, unit = one_pass.sweep.fork, unit_of(one_pass.lm.model.dtype)
    asked = list(dict.fromkeys(chain.from_iterable(samples)))

    def ask() -> Iterator[tuple[list[Answer], list[Answer]]]:
        ways = [dict(zip(asked, found, strict=True)) for found in one_pass.ask_both_ways(variant, asked)]
        for sample in samples:
            one, other = ([way[request] for request in sample] for way in ways)
            yield one, other

    with in_float32(fork.decoder):
        wide = [*ask()]
    found = [Agreement.of(answers, exact) for answers, exact in wide]
    if unit is None:
        return found
    return [
        one.with_rounding(answers, alone, exact, unit)
        for one, (answers, alone), (_, exact) in zip(found, ask(), wide, strict=True)
    ]


def try_few(
    one_pass: OnePass, asked: Sequence[tuple[Sequence[str], Sequence[Request]]], budget: int | None
) -> list[tuple[list[str], Agreement | None]]:
    """Ask variants a few requests of each of some tasks, all at once: where the model is read layer by
    layer, that is what takes long.

    Args:
        asked: of each task the variants that are to answer it, and the requests.
        budget: tokens of a batch; ``None``: nobody has decided.

    Returns:
        Of each task the variants that answer with numbers; and, of the one with the most changes, the
        comparison with the answers to one request at a time.
    """
    sweep = Sweep(one_pass.sweep.fork, Answers())
    one_pass.sweep.known.budget = sweep.known.budget = budget
    everybody = dict.fromkeys(chain.from_iterable(names for names, _ in asked))
    sweep.run([*everybody], dict.fromkeys(chain.from_iterable(requests for _, requests in asked)))
    sound = [
        [name for name in names if not sweep.known.lists_nan(name, requests)]
        for names, requests in asked
    ]
    judged = [one_pass.most_changed(names) if names else None for names in sound]
    agreements: dict[int, Agreement] = {}
    for variant in dict.fromkeys(filter(None, judged)):
        own = [number for number, name in enumerate(judged) if name == variant]
        found = check(one_pass, variant, [asked[number][1] for number in own])
        agreements |= dict(zip(own, found, strict=True))
    return [(names, agreements.get(number)) for number, names in enumerate(sound)]


def unit_of(dtype: torch.dtype) -> float | None:
    """Distance of 1 from the next larger number of a half-precision dtype; ``None`` for float32."""
    import torch

    return torch.finfo(dtype).eps if dtype in (torch.float16, torch.bfloat16) else None
