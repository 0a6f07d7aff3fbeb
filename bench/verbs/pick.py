"""``pick``: the variant to ship."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import click

from bench.exits import EXIT_NONE
from bench.verbs.output_options import JSON, PROBABILITY, put_out
from replaceme.errors import InputError

if TYPE_CHECKING:
    from bench.compare.pick import Constraint
    from bench.results import Results

POSITIVE = click.FloatRange(0, min_open=True)


@click.command()
@click.argument("results")
@click.option("--min-rp", type=POSITIVE, metavar="PERCENT", help="Average relative to the baseline's.")
@click.option("--min-average", type=POSITIVE, metavar="PERCENT")
@click.option("--min-task", multiple=True, metavar="TASK=PERCENT", help="Score of a task; repeatable.")
@click.option("--max-flips", type=POSITIVE, metavar="PERCENT", help="Items answered otherwise.")
@click.option("--max-kl", type=POSITIVE, metavar="NATS", help="KL(intact ‖ variant) a predicted token.")
@click.option("--max-latency", type=POSITIVE, metavar="MS", help="Median of a batch, end to end.")
@click.option("--workload", help="Of the latency, such as in128-out64-b1; default: the only one.")
@click.option("--min-speedup", type=POSITIVE, metavar="FACTOR")
@click.option("--max-weights", type=POSITIVE, metavar="MB", help="As the engine holds them.")
@click.option("--max-parameters", type=POSITIVE, metavar="MILLIONS")
@click.option("--training-free", is_flag=True, help="Leave out what was trained after pruning.")
@click.option(
    "--prefer",
    type=click.Choice(["latency", "memory", "quality"]),
    default="latency",
    show_default=True,
    help="What to have most of, among variants that satisfy everything.",
)
@click.option(
    "--confidence",
    type=PROBABILITY,
    default=0.95,
    show_default=True,
    help="Level of intervals.",
)
@JSON
def pick(
    results: str,
    workload: str | None,
    training_free: bool,
    prefer: Literal["latency", "memory", "quality"],
    confidence: float,
    as_json: bool,
    **bounds: Any,
) -> None:
    """Name the variant to ship under constraints, say why and how sure; exit code 1 if none qualifies.

    RESULTS is a result folder, or REVISION:FOLDER as git has it. Of the variants that satisfy everything
    it is the fastest; times within 2 % of each other are equal, and then the best average decides. Where
    nothing was served, fewer parameters count as faster.
    """
    from bench.compare.certainty import certainty
    from bench.compare.pick import pick as picked
    from bench.render import pick as rendered
    from bench.results import open_results

    found = open_results(results)
    found = found.without_training() if training_free else found
    choice = picked(found, list(_constraints(found, workload, bounds)), prefer, workload)
    sure = certainty(found, choice, confidence)
    form = rendered.to_json if as_json else rendered.text
    put_out(None, lambda: form(choice, sure))
    if choice.chosen is None:
        sys.exit(EXIT_NONE)


def _constraints(results: Results, workload: str | None, bounds: dict[str, Any]) -> Iterator[Constraint]:
    from bench.compare.pick import Constraint, latency_column

    simple = {
        "min_rp": ("rp", "RP", " %", True),
        "min_average": ("average", "avg", " %", True),
        "max_flips": ("flips", "flips", " %", False),
        "max_kl": ("kl", "KL", " nats", False),
        "min_speedup": ("speedup", "speed-up", " ×", True),
        "max_weights": ("weights", "weights", " MB", False),
        "max_parameters": ("parameters", "parameters", " M", False),
    }
    for option, about in simple.items():
        if bounds[option] is not None:
            yield Constraint(*about, bounds[option])
    for text in bounds["min_task"]:
        task, _, value = text.rpartition("=")
        try:
            yield Constraint(f"task:{task}", task, " %", True, float(value))
        except ValueError:
            raise InputError(f"--min-task {text}: write it as TASK=PERCENT, such as piqa=70.") from None
    if bounds["max_latency"] is not None or workload is not None:
        column = latency_column(results, workload)
        if bounds["max_latency"] is not None:
            name = f"latency of {column.partition(':')[2]}"
            yield Constraint(column, name, " ms", False, bounds["max_latency"])
