"""What ``plan --estimate`` says that scoring will take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
