"""Which variant to ship, why, and how sure."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.compare.certainty import Certainty, certainty
from bench.compare.pick import Candidate, Constraint, Pick, Prefer, pick, ranked
from bench.leaderboard import leaderboard
from bench.records import Failure, Record
from bench.render import pick as rendered
from bench.results import Results, open_results

PREFERENCES: tuple[Prefer, ...] = ("latency", "quality")
LOAD = "in128-out64-b1"


def at_least(column: str, limit: float) -> Constraint:
    return Constraint(column, column, "", True, limit)


def at_most(column: str, limit: float) -> Constraint:
    return Constraint(column, column, "", False, limit)


@pytest.fixture
def results(demo: Callable[..., Any]) -> Results:
    return open_results(str(demo("results").folder))


def picked(results: Results, *constraints: Constraint, prefer: Prefer = "latency") -> Pick:
    return pick(results, constraints, prefer, None)


def numbers(results: Results) -> dict[tuple[int, str], dict[str, float | None]]:
    """The leaderboard: (cut, label) → column → number."""
    rows = leaderboard.build(results.records.values()).rows
    return {(row.layers or 0, row.label): {k: v.number for k, v in row.values.items()} for row in rows}


def test_fastest_that_satisfies_everything_is_picked_and_ties_go_to_quality(results: Results) -> None:
    table = numbers(results)
    found = picked(results, at_least("rp", 80))
    good = {key: row for key, row in table.items() if key[0] and (row["rp"] or 0) >= 80}
    deepest = max(cut for cut, _ in good)  # the fewest layers are the fastest
    best = max((key for key in good if key[0] == deepest), key=lambda key: good[key]["average"] or 0)
    assert found.chosen is not None
    assert found.chosen.key[1:] == best
    assert len(found.admissible) == len(good)
    assert {c.key[1:] for c in found.admissible} == set(good)


def test_numbers_are_the_leaderboards(results: Results) -> None:
    found, table = picked(results, at_least("rp", 80)), numbers(results)
    for candidate in found.candidates:
        row = table[candidate.key[1:]]
        for column in ("average", "rp", "speedup", "weights", f"latency:{LOAD}"):
            assert candidate.values[column] == row[column]


@pytest.mark.parametrize(
    ("prefer", "constraint", "best"),
    [
        ("quality", at_most("parameters", 115), lambda rows: max(rows, key=lambda r: r["average"])),
        (
            "memory",
            at_least("rp", 80),
            lambda rows: min(rows, key=lambda r: (r["weights"], -r["average"])),
        ),
    ],
)
def test_preference_decides_among_those_that_satisfy_everything(
    results: Results, prefer: Prefer, constraint: Constraint, best: Callable[[Any], Any]
) -> None:
    found, table = picked(results, constraint, prefer=prefer), numbers(results)
    rows = [
        row for (cut, _), row in table.items() if cut and constraint.miss(row[constraint.column]) == 0
    ]
    assert found.chosen is not None
    assert found.chosen.quality == best(rows)["average"]


def test_times_that_differ_by_noise_are_equal() -> None:
    def candidate(label: str, latency: float, quality: float) -> Candidate:
        return Candidate(("m", 3, label), {"average": quality}, latency, None)

    fast, better, slow = candidate("a", 100, 50), candidate("b", 101.5, 60), candidate("c", 103, 40)
    assert [c.key[2] for c in ranked([slow, fast, better], "latency")] == ["b", "a", "c"]
    assert [c.key[2] for c in ranked([slow, fast, better], "memory")] == ["a", "b", "c"]


def test_binding_constraint_says_what_would_be_picked_without_it(results: Results) -> None:
    tight, loose = at_least("rp", 90), at_most("parameters", 1e6)
    found = picked(results, tight, loose)
    assert list(found.binding) == [tight]
    without = picked(results, loose).chosen
    assert found.binding[tight] == without
    assert without is not None
    assert "binds: without it the pick is " + without.name in rendered.text(found, None)


def test_constraint_that_rules_out_everything_is_named_with_the_nearest(results: Results) -> None:
    impossible = at_least("rp", 99.5)
    found, table = picked(results, impossible, at_least("average", 10)), numbers(results)
    assert found.chosen is None
    assert found.blocking == [impossible]
    first = found.nearest[0]
    best = max(row["rp"] or 0 for (cut, _), row in table.items() if cut)
    assert first.misses == {impossible: pytest.approx(99.5 - best)}
    text = rendered.text(found, None)
    assert text.startswith("No variant satisfies rp ≥ 99.5, average ≥ 10.")
    assert "rp ≥ 99.5 rules out all 15 variants." in text
    assert "The intact model satisfies all." in text
    assert found.intact


def test_constraints_that_only_clash_are_told_so(results: Results) -> None:
    found = picked(results, at_least("rp", 90), at_most("parameters", 115))
    assert found.chosen is None
    assert not found.blocking
    assert not found.intact
    assert "but not all by the same" in rendered.text(found, None)


def test_failed_cells_are_not_picked(demo: Callable[..., Any]) -> None:
    copy = demo("results", "baseline", "6/refit", "6/uidl")
    failure = Failure(stage="score:demo_facts", error="no")
    copy.change("6/refit", lambda record: record.failures.append(failure))
    found = picked(open_results(str(copy.folder)))
    assert [candidate.key[2] for candidate in found.candidates] == ["uidl"]


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (["6/uidl"], "It is the only variant."),
        (["3/uidl", "6/uidl"], "It is the fastest of 2 variants, before "),
    ],
)
def test_without_constraints_none_is_told(demo: Callable[..., Any], cells: list[str], why: str) -> None:
    found = picked(open_results(str(demo("results", "baseline", *cells).folder)))
    assert why in rendered.text(found, None)


def test_without_serving_fewer_parameters_count(demo: Callable[..., Any]) -> None:
    copy = demo("results")
    for stem, record in copy.store.all().items():
        record.serving = None
        copy.store.write(stem, record)
    results = open_results(str(copy.folder))
    found = picked(results, at_least("rp", 80))
    assert found.rule == ["parameters"]
    assert found.chosen is not None
    assert found.chosen.key[1] == 6
    assert "smallest (nothing was served)" in rendered.text(found, None)


def test_baseline_is_never_the_pick(results: Results) -> None:
    found = picked(results, prefer="quality")
    assert found.chosen is not None
    assert found.chosen.key[1] > 0


# ---- how sure


def sure(results: Results, *constraints: Constraint, prefer: Prefer = "latency") -> Certainty:
    found = certainty(results, picked(results, *constraints, prefer=prefer), 0.95)
    assert found is not None
    return found


def test_intervals_are_those_of_paired_items(results: Results, demo: Callable[..., Any]) -> None:
    """RP against an independent bootstrap, item by item, with the baseline on the same items."""
    found = picked(results, at_least("rp", 80))
    assert found.chosen is not None
    copy, rng = demo("again"), np.random.default_rng(1)
    label = f"{found.chosen.key[1]}/{found.chosen.key[2]}"
    ratio: Any = []
    tasks = {
        task: (np.array(copy.scores(label, task)), np.array(copy.scores("baseline", task)))
        for task in copy.record(label).quality
    }
    for _ in range(1500):
        means = []
        for variant, intact in tasks.values():
            drawn = rng.integers(0, variant.size, variant.size)
            means.append((variant[drawn].mean(), intact[drawn].mean()))
        ratio.append(100 * np.mean(means, axis=0)[0] / np.mean(means, axis=0)[1])
    span = sure(results, at_least("rp", 80)).rp
    assert span is not None
    assert (span.low, span.high) == pytest.approx(tuple(np.quantile(ratio, [0.025, 0.975])), abs=0.35)
    limit = float(np.quantile(ratio, 0.3))
    chance = sure(results, at_least("rp", min(limit, found.chosen.values["rp"] or 0)))
    assert next(iter(chance.holds.values())) == pytest.approx(0.7, abs=0.05)


def test_shares_of_picks_sum_to_one_and_favour_the_pick(results: Results) -> None:
    small = at_most("parameters", 115)  # six layers less, or nine
    best = picked(results, small, prefer="quality").chosen
    assert best is not None
    demanding = at_least("rp", (best.values["rp"] or 0) - 0.5)
    found = sure(results, small, demanding)
    assert sum(found.picked.values()) == pytest.approx(1)
    assert next(iter(found.picked)) == best.name
    assert 0.1 < found.picked[""] < 0.5  # nothing qualifies


def test_resamples_follow_the_rule_that_picks(results: Results) -> None:
    """By quality alone, variants of another cut would be picked."""
    found = {prefer: sure(results, at_least("rp", 80), prefer=prefer) for prefer in PREFERENCES}
    cuts = {prefer: int(next(iter(s.picked)).split("/")[1]) for prefer, s in found.items()}
    assert cuts == {"latency": 6, "quality": 3}


def test_constraint_without_chance_holds_surely(results: Results) -> None:
    found = sure(results, at_most("weights", 230), at_least("rp", 1))
    assert list(found.holds.values()) == [1, 1]


def test_without_scores_of_items_certainty_is_unknown(demo: Callable[..., Any]) -> None:
    copy = demo("results")
    for path in (copy.folder / "samples").iterdir():
        path.unlink()
    results = open_results(str(copy.folder))
    found = picked(results, at_least("rp", 80))
    assert certainty(results, found, 0.95) is None
    assert "How sure is unknown" in rendered.text(found, None)


def test_doubt_about_a_constraint_is_told(results: Results) -> None:
    chosen = picked(results, at_least("rp", 80)).chosen
    assert chosen is not None
    edge = at_least("rp", (chosen.values["rp"] or 0) - 0.05)
    found = picked(results, edge)
    text = rendered.text(found, certainty(results, found, 0.95))
    assert "; that is not 95 %." in text


def test_fit_that_is_not_to_be_trusted_is_told(demo: Callable[..., Any]) -> None:
    copy = demo("results", "baseline", "9/lstsq")

    def warn(record: Record) -> None:
        assert record.prune is not None
        record.prune.warning = "worse than plain removal"

    copy.change("9/lstsq", warn)
    found = picked(open_results(str(copy.folder)))
    assert "Its fit is not to be trusted: worse than plain removal." in rendered.text(found, None)


# ---- command line


def test_command_names_the_variant_and_the_reason(
    demo: Callable[..., Any], call_here: Callable[..., Any]
) -> None:
    folder = demo("results").folder
    result = call_here("pick", folder, "--min-rp", 80, "--max-latency", 99_999, "--workload", LOAD)
    assert result.returncode == 0
    assert result.stdout.startswith("Ship SmolLM2-135M-Instruct/6/")
    assert "RP ≥ 80 % binds" in result.stdout
    assert "With other items of the same kind" in result.stdout


def test_json_is_alone_on_stdout(demo: Callable[..., Any], call_here: Callable[..., Any]) -> None:
    folder = demo("results").folder
    content = json.loads(call_here("pick", folder, "--min-rp", 80, "--json").stdout)
    assert content["pick"]["layers"] == 6
    assert content["constraints"][0]["limit"] == 80
    assert content["certainty"]["rp"][0] < content["pick"]["values"]["rp"]


def test_exit_code_is_1_where_nothing_qualifies(
    demo: Callable[..., Any], call_here: Callable[..., Any]
) -> None:
    folder = demo("results").folder
    result = call_here("pick", folder, "--min-rp", 99.9)
    assert result.returncode == 1
    assert result.stdout.startswith("No variant satisfies RP ≥ 99.9 %.")
    assert json.loads(call_here("pick", folder, "--min-rp", 99.9, "--json").stdout)["pick"] is None


def test_wrong_constraints_are_refused(
    demo: Callable[..., Any], call_here: Callable[..., Any], refused: Callable[..., None]
) -> None:
    copy = demo("results", "baseline", "6/uidl")
    refused(call_here("pick", copy.folder, "--max-latency", 5), "--workload: one of in128-out64-b1")
    refused(call_here("pick", copy.folder, "--workload", "x"), "there are in128-out64-b1")
    refused(call_here("pick", copy.folder, "--min-task", "demo_fact=3"), "did you mean 'demo_facts'")
    refused(call_here("pick", copy.folder, "--min-task", "demo_facts"), "TASK=PERCENT")
    refused(call_here("pick", "nowhere"), "does not exist")
    copy.remove("6/uidl")
    refused(call_here("pick", copy.folder), "has no pruned cell")


def test_latencies_of_several_devices_are_no_ranking(
    demo: Callable[..., Any], call_here: Callable[..., Any], refused: Callable[..., None]
) -> None:
    copy = demo("results", "baseline", "6/uidl", "3/uidl")

    def move(record: Record) -> None:
        assert record.serving is not None
        gpu = [p.model_copy(update={"device": "GPU"}) for p in record.serving.processes]
        record.serving = record.serving.model_copy(update={"processes": gpu})

    copy.change("3/uidl", move)
    refused(call_here("pick", copy.folder), "not of one engine and device")
    assert call_here("pick", copy.folder, "--prefer", "quality").returncode == 0


def test_revision_can_be_picked_from(
    demo: Callable[..., Any], commit: Callable[[str], str], call: Callable[..., Any], tmp_path: Any
) -> None:
    demo("results", "baseline", "6/uidl")
    commit("results")
    assert "6/uidl" in call("pick", "HEAD:results", cwd=tmp_path).stdout
