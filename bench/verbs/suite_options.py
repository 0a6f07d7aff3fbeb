"""The suite argument and what the verbs that take it share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.verbs.completion import SuiteName, complete_cells
from replaceme.errors import InputError

if TYPE_CHECKING:
    from bench.suite.matrix import Plan


SUITE = click.argument("suite", type=SuiteName())
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Result folder; default: runs/<suite name>."
)
ONLY = click.option(
    "--only",
    multiple=True,
    metavar="GLOB",
    help="Only cells named like MODEL/N/SOLVER.",
    shell_complete=complete_cells,
)
RETRY_FAILED = click.option(
    "--retry-failed", is_flag=True, help="Do again what failed, though nothing has changed."
)


class Limit(click.ParamType[float]):
    """A number of items, or a share of them under 1, as lm_eval's option."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from bench.tasks.spec import number_or_share

        try:
            limit = number_or_share(float(value))
        except ValueError:
            limit = 0.0
        if limit <= 0:
            self.fail(f"{value!r} is no number of items and no share of them under 1.", param, ctx)
        return limit


LIMIT = click.option(
    "--limit",
    type=Limit(),
    help="Items of each task at most, or a share of them such as 0.1, instead of the suite's.",
)


class MemorySize(click.ParamType[str]):
    """An amount of memory, with its unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from replaceme.amounts import parse_size

        try:
            parse_size(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)
        return str(value)


MEMORY = click.option(
    "--memory",
    type=MemorySize(),
    help="Memory of the device to prune, heal and score in, such as 20GiB, instead of the suite's.",
)


def expand_suite(
    suite_file: Path,
    only: tuple[str, ...],
    out: Path | None,
    limit: float | None,
    memory: str | None = None,
) -> tuple[Plan, Path]:
    """A suite file, or a shipped suite by its name, as its cells; and the result folder."""
    from bench.suite import matrix, suite
    from bench.suite.files import find

    asked = suite.load(find(str(suite_file), Path())).limited(limit).within(memory)
    plan = matrix.expand(asked, only)
    out = out or Path("runs") / plan.suite.name
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder.")
    return plan, out
