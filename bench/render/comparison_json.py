"""A comparison as JSON: everything, under stable keys."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from bench.compare.comparison import Comparison, Verdict
from bench.render.comparison import summary
from bench.render.escape import json_text

FORMAT = 1


def render(comparison: Comparison) -> str:
    content = {
        "format": FORMAT,
        "base": comparison.base,
        "new": comparison.new,
        "regression": bool(comparison.regressions),
        "inconclusive": bool(comparison.inconclusive),
        "passes": comparison.passes,
        "summary": summary(comparison),
        "options": asdict(comparison.options),
        "tests": comparison.tests,
        "detectable_points": comparison.detectable
        and dict(zip(("median", "largest"), comparison.detectable, strict=True)),
        "verdicts": [_verdict(verdict) for verdict in comparison.verdicts],
        "averages": [_cell(asdict(found)) for found in comparison.averages],
        "changes": comparison.changes,
    }
    return json_text(json.dumps(content, indent=1, ensure_ascii=False)) + "\n"


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return _cell(asdict(verdict))


def _cell(content: dict[str, Any]) -> dict[str, Any]:
    model, layers, label = content.pop("key")
    return {"model": model, "layers": layers, "label": label, **content}
