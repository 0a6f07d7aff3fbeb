"""``replaceme-bench run``: a plan, its progress, its leaderboard and its reports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.console import Reporter, chatter_to, output, progress, tell
from bench.leaderboard import leaderboard
from bench.records import Record
from bench.render import FORMATS, SUFFIXES, terminal
from bench.run.host import disk, environment, interrupts, leftovers
from bench.run.host.interrupts import heeding
from bench.run.host.lock import locked
from bench.run.runner import Events, Run
from bench.suite.matrix import Plan
from replaceme.errors import InputError, OutputError
from replaceme.io.files import write_atomically


def run_plan(plan: Plan, out: Path, retry_failed: bool = False) -> bool:
    """Run a plan and print its leaderboard; what is done so far where it is interrupted.

    Args:
        retry_failed: do again what failed, which is left alone otherwise.

    Returns:
        Whether a cell failed.

    Raises:
        InputError: the folder holds records that cannot be read, or another run is using it.
        OutputError: the folder cannot be written, or its disk is too small.
        KeyboardInterrupt: the run was interrupted, or told to terminate.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # For a bootstrap lm-eval would fork this process, threads and all, to hand one worker all the work.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    with locked(out), interrupts.heeded():
        leftovers.remove(out)
        disk.check(plan, out, retry_failed)
        return _run(plan, out, retry_failed)


def _run(plan: Plan, out: Path, retry_failed: bool) -> bool:
    log, records = out / "logs" / "run.log", {}
    try:
        with logs_without_secrets(log.parent), chatter_to(log) as stderr:
            run = Run(plan, out, retry_failed)
            run.check_models()
            records = run.records
            with progress(stderr, run.steps) as reporter:
                try:
                    run.execute(_events(reporter))
                except Exception as error:
                    interrupts.check()
                    if not isinstance(error, InputError | OutputError):
                        reporter.say(f"The run stopped on an internal error; details are in {log}.")
                    raise
    except KeyboardInterrupt:
        _print([record for record in records.values() if record.updated])
        raise
    _finish([*records.values()], out, log)
    return any(record.status == "failed" for record in records.values())


def _events(reporter: Reporter) -> Events:
    """Each a place where an interrupted run can end."""
    step, done = heeding(reporter.step), heeding(reporter.done)
    return Events(step, done, heeding(reporter.say), heeding(reporter.share))


@contextmanager
def logs_without_secrets(folder: Path) -> Iterator[None]:
    """Hide secrets in the logs of a run when it ends, however it does."""
    try:
        yield
    finally:
        with suppress(OSError):  # a full disk
            environment.hide_secrets(folder)


def _print(records: list[Record]) -> None:
    if records:
        with output() as console:
            terminal.render(leaderboard.build(records), console)


def _finish(records: list[Record], out: Path, log: Path) -> None:
    """Write the reports, print the table, and say what lies where."""
    table = leaderboard.build(records)
    for name, render in FORMATS.items():
        write_atomically(out / f"leaderboard.{SUFFIXES[name]}", render(table).encode())
    _print(records)
    reports = ", ".join(f"leaderboard.{suffix}" for suffix in SUFFIXES.values())
    tell(f"Records: {out / 'records'}; reports: {reports} in {out}")
    if failed := sum(record.status == "failed" for record in records):
        again = "the same command with --retry-failed tries them again"
        tell(f"{failed} of {len(records)} cells failed; {again}; log: {log}")
