"""Flips counted by hand, and what table, chart, page and pick make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.changes import Columns, count_flips, divergence_of, flips_of
from bench.compare.pick import Constraint, pick
from bench.leaderboard import leaderboard
from bench.leaderboard.view import with_columns
from bench.page.drawer import drawers
from bench.plots import SCREEN, figures
from bench.records import Flips, Group, GroupMetric, Record
from bench.render import pick as rendered
from bench.render.formats import FORMATS
from bench.results import Results
from replaceme.facts import Divergence
from tests.bench import cells


def columns(chosen: list[Any], scores: list[float], docs: list[Any] | None = None) -> Columns:
    return {"doc_id": docs or [*range(len(chosen))], "acc": scores, "chosen:acc": chosen}


INTACT = columns([0, 1, 2, 3, 0, 1], [1, 1, 0, 0, 0, 1])


def test_flips_are_told_apart_by_what_was_right() -> None:
    own = columns([0, 2, 1, 1, 0, 3], [1, 0, 1, 0, 0, 1])  # the last item has two right answers
    found = count_flips(INTACT, own, "acc")
    assert found == Flips(
        metric="acc", items=6, changed=4, right_to_wrong=1, wrong_to_right=1, wrong_to_wrong=1
    )


def test_items_are_paired_by_their_ids() -> None:
    backwards = {key: values[::-1] for key, values in INTACT.items()}
    found = count_flips(INTACT, backwards, "acc")
    assert found and (found.items, found.changed) == (6, 0)


@pytest.mark.parametrize(
    "own",
    [
        {key: values for key, values in INTACT.items() if key != "chosen:acc"},
        columns([0, 1], [1.0, 1.0]),
        columns([0, 1, 2, 3, 0, 1], [1] * 6, [0, 1, 2, 3, 4, 9]),
        {},
    ],
    ids=["answers not kept", "fewer items", "other items", "nothing"],
)
def test_flips_are_unknown_and_not_0_without_the_same_answers(own: Columns) -> None:
    assert count_flips(INTACT, own, "acc") is None
    assert count_flips(own, INTACT, "acc") is None


def test_scores_that_are_not_right_or_wrong_leave_only_the_share() -> None:
    parts = columns([0, 2, 2, 3, 0, 1], [0.5, 0, 0, 0, 0, 1])
    found = count_flips(INTACT, parts, "acc")
    assert found == Flips(metric="acc", items=6, changed=1)


# ---- tables


def flips(changed: int, items: int = 100, metric: str = "acc") -> Flips:
    half = changed // 2
    return Flips(
        metric=metric,
        items=items,
        changed=changed,
        right_to_wrong=half,
        wrong_to_right=changed - half,
        wrong_to_wrong=0,
    )


def compared(**changes: Any) -> list[Record]:
    """The matrix with flips of 10 a layer in task a, half as many in b, and divergences."""
    records = cells.matrix(**changes)
    for record in records:
        for name, task in record.quality.items():
            task.flips = flips(record.layers * (10 if name == "a" else 5))
            task.divergence = Divergence(mean=record.layers / 10, p99=record.layers, positions=300)
        assert record.prune
        if record.layers:
            record.prune.divergence = Divergence(mean=0.25, p99=2.0, positions=4096)
    return records


def test_means_over_the_tasks_stand_beside_the_average() -> None:
    table = leaderboard.build(compared())
    keys = [column.key for column in table.columns]
    assert keys[keys.index("rp") + 1 :][:2] == ["flips", "kl"]
    for row in table.rows:
        assert row.values["flips"].number == pytest.approx(7.5 * (row.layers or 0))
        assert row.values["kl"].number == pytest.approx((row.layers or 0) / 10)
    notes = " ".join(table.notes)
    assert "flips: share of items whose chosen answer is not the intact model's, mean over the" in notes
    assert "KL: KL(intact ‖ variant) of next-token distributions, nats per predicted token" in notes


def test_single_tasks_and_kinds_of_flips_are_shown_on_demand() -> None:
    asked = ["label", "task_flips", "task_kl", "task_kl_p99:b", "lost", "won", "swapped", "text_kl"]
    table = with_columns(leaderboard.build(compared()), asked)
    (row,) = [row for row in table.rows if (row.layers, row.label) == (4, "uidl")]
    shown = {column.key: row.values[column.key].number for column in table.columns[1:]}
    assert shown == {
        "task_flips:a": 40,
        "task_flips:b": 20,
        "task_kl:a": 0.4,
        "task_kl:b": 0.4,
        "task_kl_p99:b": 4,
        "lost": 15,
        "won": 15,
        "swapped": 0,
        "text_kl": 0.25,
    }
    for render in FORMATS.values():
        assert render(table)


def test_results_without_the_data_have_none_of_the_columns() -> None:
    table = leaderboard.build(cells.matrix())
    keys = {column.key for column in [*table.columns, *table.spare]}
    assert not {key for key in keys if "flips" in key or "kl" in key}
    assert not any(figure.name.endswith("changed-answers") for figure in figures(cells.matrix(), SCREEN))


def test_a_mean_is_unknown_where_a_task_is_missing_that_others_have() -> None:
    records = compared()
    records[1].quality["b"].flips = records[1].quality["b"].divergence = None
    rows = {(row.layers, row.label): row.values for row in leaderboard.build(records).rows}
    assert rows[2, "uidl"]["flips"].number is rows[2, "uidl"]["kl"].number is None
    assert rows[2, "lstsq"]["flips"].number == 15


def test_flips_of_another_metric_than_the_one_that_counts_are_unknown() -> None:
    records = compared()
    records[1].quality["a"].flips = flips(3, metric="acc_norm")
    assert flips_of(records[1], "a") is None
    assert flips_of(records[1], "b") == flips(10)


def test_a_groups_changes_are_those_of_the_items_and_tokens_of_all_its_tasks() -> None:
    record = compared()[1]
    record.quality["b"].flips = flips(30, items=300)
    record.quality["b"].divergence = Divergence(mean=1.0, p99=3.0, positions=100)
    metric = GroupMetric(value=0.5, stderr=None, higher_is_better=True, weight_by_size=True)
    record.groups["both"] = Group(
        identity={"tasks": {}},
        primary="acc",
        average=True,
        metrics={"acc": metric},
        members=["a", "b"],
        tasks=["a", "b"],
        items=400,
        version=None,
        num_fewshot=0,
    )
    found = flips_of(record, "both")
    assert found and (found.items, found.changed, found.right_to_wrong) == (400, 50, 25)
    far = divergence_of(record, "both")
    assert far and far.mean == pytest.approx((300 * 0.2 + 100 * 1.0) / 400)
    assert (far.positions, far.p99) == (400, None)
    record.quality["b"].flips = record.quality["b"].divergence = None
    assert flips_of(record, "both") is divergence_of(record, "both") is None


# ---- page, chart, pick


def test_drawer_and_chart_say_what_changed() -> None:
    records = compared()
    sections = {s.title: s for s in drawers(records)["m", 2, "lstsq"].sections}
    assert sections["What changed"].rows[0] == [
        *["a", "100", "20.0 %", "10", "10", "0"],
        *["300", "0.2000", "2.0000"],
    ]
    assert "KL 0.2500 nats" in sections["What changed"].texts[0]
    assert "What changed" not in {s.title for s in drawers(records)["m", 0, "baseline"].sections}
    (chart,) = [f for f in figures(records, SCREEN) if f.name.endswith("changed-answers")]
    assert chart.rows[0] == ["uidl", "2", "15.0", "7.5", "7.5", "0.200"]
    assert chart.alt.startswith("With 2 layers removed, uidl changes 15.0 % of answers, lstsq 15.0 %.")
    assert chart.spec


def test_pick_bounds_flips_and_divergence() -> None:
    records = {f"{number}": record for number, record in enumerate(compared())}
    results = Results("here", Path("nowhere"), records)
    few = Constraint("flips", "flips", " %", False, 20)
    near = Constraint("kl", "KL", " nats", False, 0.1)
    found = pick(results, [few], "latency", None)
    assert found.chosen and found.chosen.key == ("m", 2, "lstsq")
    assert "flips 15.0 %, KL 0.200 nats" in rendered.text(found, None)
    assert found.intact
    nothing = pick(results, [few, near], "latency", None)
    assert nothing.chosen is None
    assert nothing.blocking == [near]
