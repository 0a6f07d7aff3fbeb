"""A pick as sentences for the terminal, and as JSON."""

from __future__ import annotations

import json
from typing import Any

from bench.compare.certainty import Certainty
from bench.compare.pick import EQUAL, Candidate, Constraint, Near, Pick
from bench.render.escape import json_text, visible

BRIEF = {"rp": "RP {:.1f} %", "average": "avg {:.1f} %", "speedup": "speed-up {:.2f} ×"}
FULL = BRIEF | {"flips": "flips {:.1f} %", "kl": "KL {:.3f} nats"}
FULL |= {"weights": "weights {:,.0f} MB", "parameters": "{:,.1f} M parameters"}
FEW = 3  # other variants that are named


def text(found: Pick, sure: Certainty | None) -> str:
    """The answer, why, and how sure, a sentence each."""
    lines = _answer(found, sure) if found.chosen else _nothing(found)
    if found.noisy:
        names = ", ".join(candidate.name for candidate in found.noisy[:FEW])
        more = f" and {len(found.noisy) - FEW} more" if len(found.noisy) > FEW else ""
        lines.append(
            f"Noisy, so unknown here: the times of {names}{more}; `run --retry-noisy` measures again."
        )
    return "".join(f"{visible(line)}\n" for line in lines)


def _answer(found: Pick, sure: Certainty | None) -> list[str]:
    chosen = found.chosen
    assert chosen is not None
    lines = [f"Ship {chosen.name}: {_facts(chosen, found, FULL)}.", _why(found)]
    for constraint, other in found.binding.items():
        lines.append(
            f"{constraint} binds: without it the pick is {other.name} ({_facts(other, found)})."
        )
    if chosen.warning:
        lines.append(f"Its fit is not to be trusted: {chosen.warning}.")
    return lines + (_sure(found, sure) if sure else ["How sure is unknown: no scores of single items."])


def _why(found: Pick) -> str:
    count, total, named = len(found.admissible), len(found.candidates), _named(found.constraints)
    if count == 1:
        others = f" one of {total} variants that satisfies {named}" if named else " variant"
        return f"It is the only{others}."
    best = {"latency": "fastest", "memory": "smallest", "quality": "best"}[found.prefer]
    if found.rule == ["parameters"] and found.prefer == "latency":
        best = f"smallest ({'every latency is noisy' if found.noisy else 'nothing was served'})"
    others = f"the {count} of {total} variants that satisfy {named}" if named else f"{total} variants"
    why = f"It is the {best} of {others}"
    first, second = found.admissible[:2]
    if found.prefer != "quality" and _alike(first, second, found):
        if first.quality == float("-inf"):
            return f"{why}; so is {second.name}, and no average is known."
        known = second.quality > float("-inf")
        before = f"{second.quality:.1f}" if known else "an unknown one"
        better = f"avg {first.quality:.1f} before {before} ({second.name})"
        return f"{why}, and the best of those equally so: {better}."
    return f"{why}, before {second.name} ({_facts(second, found)})."


def _alike(first: Candidate, second: Candidate, found: Pick) -> bool:
    if first.objective is None or second.objective is None:
        return False
    ratio = max(first.objective, second.objective) / min(first.objective, second.objective)
    return ratio <= (EQUAL if found.prefer == "latency" else 1)


def _sure(found: Pick, sure: Certainty) -> list[str]:
    percent = f"{100 * sure.confidence:g} %"
    spans = [
        f"{name} {interval.low:.1f} to {interval.high:.1f} %"
        for name, interval in (("RP", sure.rp), ("avg", sure.average))
        if interval
    ]
    lines = [f"{percent} intervals over the tasks' items: {', '.join(spans)}."]
    for constraint, share in sure.holds.items():
        if 0 < share < 1:
            doubt = "" if share >= sure.confidence else f"; that is not {percent}"
            lines.append(f"{constraint} holds with probability {share:.2f}{doubt}.")
    chosen = found.admissible[0].name
    others = [
        f"{name or 'none'} {share:.0%}"
        for name, share in sure.picked.items()
        if name != chosen and share >= 0.01
    ]
    instead = f"; instead: {', '.join(others[:FEW])}" if others else ""
    share = sure.picked.get(chosen, 0.0)
    last = f"With other items of the same kind the pick would be the same in {share:.0%} of cases"
    return [*lines, f"{last}{instead}."]


def _nothing(found: Pick) -> list[str]:
    lines = [f"No variant satisfies {_named(found.constraints)}."]
    count = len(found.candidates)
    lines += [f"{constraint} rules out all {count} variants." for constraint in found.blocking]
    if not found.blocking:
        lines.append(f"Each can be satisfied by one of the {count} variants, but not all by the same.")
    lines += [_near(near, found) for near in found.nearest[:FEW]]
    if found.intact:
        lines.append("The intact model satisfies all.")
    return lines


def _near(near: Near, found: Pick) -> str:
    misses = [
        f"{constraint} {f'by {miss:.2g}{constraint.unit}' if miss is not None else '(unknown)'}"
        for constraint, miss in near.misses.items()
    ]
    return (
        f"Near: {near.candidate.name} misses {' and '.join(misses)} ({_facts(near.candidate, found)})."
    )


def _named(constraints: list[Constraint]) -> str:
    return ", ".join(map(str, constraints))


def _facts(candidate: Candidate, found: Pick, forms: dict[str, str] = BRIEF) -> str:
    """The numbers that matter: those of ``forms``, and what constraints and rule are about."""
    columns = [*forms, *(c.column for c in found.constraints), *found.rule]
    facts = []
    for column in dict.fromkeys(columns):
        if (value := candidate.values.get(column)) is not None:
            kind, _, name = column.partition(":")
            other = f"{name} {{:,.0f}} ms" if kind == "latency" else f"{name} {{:.1f}} %"
            facts.append(FULL.get(column, other).format(value))
    return ", ".join(facts)


def to_json(found: Pick, sure: Certainty | None) -> str:
    content = {
        "pick": _candidate(found.chosen) if found.chosen else None,
        "constraints": [_constraint(constraint, found, sure) for constraint in found.constraints],
        "prefer": found.prefer,
        "rule": found.rule,
        "admissible": [_candidate(candidate) for candidate in found.admissible],
        "nearest": [
            {"cell": near.candidate.name, "misses": {str(c): miss for c, miss in near.misses.items()}}
            for near in found.nearest
        ],
        "noisy": [_candidate(candidate) for candidate in found.noisy],
        "intact_model_qualifies": found.intact,
        "certainty": _certainty(sure) if sure else None,
    }
    return json_text(json.dumps(content, indent=1, ensure_ascii=False)) + "\n"


def _candidate(candidate: Candidate) -> dict[str, Any]:
    model, layers, label = candidate.key
    return {"model": model, "layers": layers, "label": label, "values": candidate.values}


def _constraint(constraint: Constraint, found: Pick, sure: Certainty | None) -> dict[str, Any]:
    binding = found.binding.get(constraint)
    return {
        "column": constraint.column,
        "at_least": constraint.at_least,
        "limit": constraint.limit,
        "rules_out_all": constraint in found.blocking,
        "without_it": binding.name if binding else None,
        "holds_with_probability": sure.holds[constraint] if sure else None,
    }


def _certainty(sure: Certainty) -> dict[str, Any]:
    spans = {"rp": sure.rp, "average": sure.average}
    return {
        "confidence": sure.confidence,
        **{name: [span.low, span.high] if span else None for name, span in spans.items()},
        "picked": [{"cell": name or None, "share": share} for name, share in sure.picked.items()],
    }
