"""``run``: the matrix of a suite, with its progress, its leaderboard and its reports."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.exits import EXIT_FAILED
from bench.verbs.suite_options import LIMIT, MEMORY, ONLY, OUT, RETRY_FAILED, SUITE, expand_suite

if TYPE_CHECKING:
    from bench.records import Record
    from bench.run.resume import Retry
    from bench.suite.matrix import Plan


@click.command()
@SUITE
@OUT
@ONLY
@LIMIT
@MEMORY
@click.option(
    "--executor", type=click.Choice(["local", "ray"]), help="Who does the work, instead of the suite's."
)
@click.option("--address", help="Of the Ray cluster; 'auto' on one of its machines.")
@RETRY_FAILED
@click.option("--retry-noisy", is_flag=True, help="Measure again latencies that something disturbed.")
def run(
    suite: Path,
    out: Path | None,
    only: tuple[str, ...],
    limit: float | None,
    memory: str | None,
    executor: str | None,
    address: str | None,
    retry_failed: bool,
    retry_noisy: bool,
) -> None:
    """Run a suite; the same command again does only what is left."""
    from bench.console import tell
    from bench.run.resume import Retry

    if address and executor != "ray":
        raise click.UsageError("--address is that of a Ray cluster; say --executor ray.")
    plan, folder = expand_suite(suite, only, out, limit, memory)
    plan = replace(plan, suite=plan.suite.done_by(executor, address))
    for note in plan.notes:
        tell(note)
    retry = Retry(failed=retry_failed, noisy=retry_noisy)
    sys.exit(EXIT_FAILED if run_plan(plan, folder, retry) else 0)


def run_plan(plan: Plan, out: Path, retry: Retry) -> bool:
    """Run a plan and print its leaderboard; what is done so far where it is interrupted.

    Args:
        retry: what is done again, and left alone otherwise.

    Returns:
        Whether a cell failed.

    Raises:
        InputError: the folder holds records that cannot be read, or another run is using it.
        OutputError: the folder cannot be written, or its disk is too small.
        KeyboardInterrupt: the run was interrupted, or told to terminate.
    """
    from bench.run.host import interrupts, leftovers
    from bench.run.host.lock import hold_lock
    from bench.run.space import check_space

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # For a bootstrap lm-eval would fork this process, threads and all, to hand one worker all the work.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    with hold_lock(out), interrupts.catch_signals():
        leftovers.remove(out)
        check_space(plan, out, retry)
        log = out / "logs" / "run.log"
        records: list[Record] = []
        try:
            _execute(plan, out, retry, log, records)
        except KeyboardInterrupt:
            _print_table([record for record in records if record.updated])
            raise
        _write_reports(records, out)
        _print_table(records)
        _tell_where(records, out, log)
        return any(record.status == "failed" for record in records)


def _execute(plan: Plan, out: Path, retry: Retry, log: Path, records: list[Record]) -> None:
    """Run a plan; ``records`` is filled with the records of its cells before it starts."""
    from bench.console import chatter_to, report_progress
    from bench.run.executors import make_executor
    from bench.run.host import environment, interrupts
    from bench.run.ledger import Ledger
    from bench.run.runner import Run
    from bench.run.spread import size_workers
    from replaceme.errors import InputError, OutputError

    with (
        environment.masked_logs(log.parent),
        chatter_to(log) as stderr,
        closing(make_executor(size_workers(plan), out, plan.suite.device)) as executor,
    ):
        ledger = Ledger(plan, out, retry, executor)
        run = Run(ledger)
        run.check_gpus()
        run.check_models()
        records += ledger.records.values()
        with report_progress(stderr, ledger.count_due()) as reporter:
            ledger.progress.reporter = reporter
            try:
                run.execute()
            except Exception as error:
                interrupts.raise_pending()
                if not isinstance(error, InputError | OutputError):
                    reporter.say(f"The run stopped on an internal error; details are in {log}.")
                raise


def _write_reports(records: list[Record], out: Path) -> None:
    from bench.leaderboard import leaderboard
    from bench.render.formats import FORMATS, suffix
    from replaceme.io.files import write_atomically

    table = leaderboard.build(records)
    for name, render in FORMATS.items():
        write_atomically(out / f"leaderboard.{suffix(name)}", render(table).encode())


def _print_table(records: list[Record]) -> None:
    from bench.console import output
    from bench.leaderboard import leaderboard
    from bench.render import terminal

    if records:
        with output() as console:
            terminal.render(leaderboard.build(records), console)


def _tell_where(records: list[Record], out: Path, log: Path) -> None:
    """Say where results lie, and what failed."""
    from bench.console import tell
    from bench.render.formats import FORMATS, suffix

    reports = ", ".join(f"leaderboard.{suffix(name)}" for name in FORMATS)
    tell(f"Records: {out / 'records'}; reports: {reports} in {out}")
    if failed := sum(record.status == "failed" for record in records):
        again = "the same command with --retry-failed tries them again"
        tell(f"{failed} of {len(records)} cells failed; {again}; log: {log}")
