"""``replaceme-bench run``: a plan, its progress, its leaderboard and its reports."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from bench import leaderboard
from bench.console import chatter_to, progress
from bench.matrix import Plan
from bench.records import write_atomically
from bench.render import FORMATS, terminal
from bench.runner import Events, Run
from replaceme.errors import InputError, OutputError

SUFFIXES = {name: "md" if name == "markdown" else name for name in FORMATS}


def run_plan(plan: Plan, out: Path) -> bool:
    """Run a plan and print its leaderboard.

    Returns:
        Whether a cell failed.

    Raises:
        InputError: the folder holds records that cannot be read.
        OutputError: the folder cannot be written.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    log = out / "logs" / "run.log"
    _check_writable(out)
    with chatter_to(log) as stderr:
        run = Run(plan, out)
        with progress(stderr, run.steps) as reporter:
            try:
                run.execute(Events(reporter.step, reporter.done, reporter.say, reporter.share))
            except (InputError, OutputError, KeyboardInterrupt):
                raise
            except Exception:
                reporter.say(f"The run stopped on an internal error; details are in {log}.")
                raise
    records = list(run.records.values())
    table = leaderboard.build(records)
    terminal.render(table, Console(highlight=False))
    for name, render in FORMATS.items():
        write_atomically(out / f"leaderboard.{SUFFIXES[name]}", render(table).encode())
    failed = [record for record in records if record.status == "failed"]
    summary = Console(stderr=True, highlight=False)
    reports = ", ".join(f"leaderboard.{suffix}" for suffix in SUFFIXES.values())
    summary.print(f"Records: {out / 'records'}; reports: {reports} in {out}", soft_wrap=True)
    if failed:
        summary.print(f"{len(failed)} of {len(records)} cells failed; log: {log}", soft_wrap=True)
    return bool(failed)


def _check_writable(out: Path) -> None:
    write_atomically(out / ".writable", b"")
    (out / ".writable").unlink()
