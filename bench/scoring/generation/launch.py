"""Has variants of one shape write texts, in as few engines as that takes."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.scoring.generation.job import Job, Variant
from bench.scoring.generation.texts import Entry, Tail, Texts
from bench.serving.workers import ServingError, Workers, explain_failure
from replaceme.report import Report, no_report

WORKER = "bench.scoring.generation.worker"
STALL = 1800.0  # seconds without a finished text after which an engine is taken to hang

Asked = tuple[str, str]  # stem of a variant, hash of a task's requests


@dataclass
class Outcome:
    """What became of some variants' texts, beside the texts.

    Attributes:
        errors: why there are none.
        loaded: variant → ``engine``, started on its checkpoint, or ``swap``: its weights were put in.
        afresh: variant → why an engine was started for it alone.
        truncated: number of prompts that lost their beginning.
        seconds: that the engine wrote for.
        start_seconds: variant → seconds of the engine's start, or of putting in its weights.
        nan: for which logits were NaN.
    """

    errors: dict[Asked, str] = field(default_factory=dict)
    loaded: dict[str, str] = field(default_factory=dict)
    afresh: dict[str, str] = field(default_factory=dict)
    truncated: dict[Asked, int] = field(default_factory=dict)
    seconds: dict[Asked, float] = field(default_factory=dict)
    start_seconds: dict[str, float] = field(default_factory=dict)
    nan: set[Asked] = field(default_factory=set)

    def take(self, entries: Iterable[Entry]) -> None:
        """Add what was told of engines and their work."""
        for entry in entries:
            variant = entry.get("variant", "")
            asked = (variant, entry.get("asked", ""))
            if "loaded" in entry:
                self.loaded[variant] = entry["loaded"]
                self.start_seconds[variant] = entry["seconds"]
            elif "refused" in entry:
                self.afresh[variant] = entry["refused"]
            elif "nan" in entry:
                self.nan.add(asked)
            elif "error" in entry:
                self.errors[asked] = entry["error"]
            elif "answered" in entry:
                self.seconds[asked] = self.seconds.get(asked, 0.0) + entry["answered"]
                self.truncated[asked] = self.truncated.get(asked, 0) + entry["truncated"]


class Engines:
    """Runs one engine after the other until every request of some variants is answered or given up."""

    def __init__(
        self,
        workers: Workers,
        logs: Path,
        report: Report = no_report,
        started: bool = False,
        stall: float = STALL,
        **settings: Any,
    ) -> None:
        """Prepare.

        Args:
            workers: of the module ``WORKER``.
            logs: folder for the output of the engines.
            report: told the share of the texts that are there.
            started: whether an engine is known to start on a model of this kind.
            stall: seconds without a finished text after which an engine is killed.
            settings: of :class:`Job`, for all engines.
        """
        self.workers, self.logs, self.report, self.settings = workers, logs, report, settings
        self.started, self.stall = started, stall

    def answer(self, variants: list[Variant], kept: Iterable[Entry] = ()) -> Iterator[list[Entry]]:
        """Have variants of one shape answer what they are asked; yields texts and what else is told, as
        it comes.

        Args:
            kept: texts that came before, and are not written again.

        Raises:
            ServingError: no engine could be started.
        """
        self.outcome, self._total = Outcome(), _count_lacking(variants)
        self.logs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="generation-", dir=self.logs) as scratch:
            self._texts = Texts(Path(scratch, "texts.jsonl").resolve(), {})
            tail = Tail(self._texts.path)
            self._texts.take(kept)
            variants = self._list_left(variants)
            while variants:
                self._loaded = list[str]()
                if error := (yield from self._run(variants, tail)):
                    blamed = self._blame(variants, error)
                    self._take(blamed)
                    yield blamed
                variants = self._list_left(variants)

    def _run(self, variants: list[Variant], tail: Tail) -> Generator[list[Entry], None, str | None]:
        """Run one engine; returns why it did not come to its end, if so."""
        done = self._total - _count_lacking(variants)

        def read_news() -> list[Entry]:
            nonlocal done
            entries = tail.read()
            self._take(entries)
            done += sum("text" in entry for entry in entries)
            if entries:
                self.report(min(1.0, done / max(1, self._total)))
            return entries

        log = self.logs / f"generate-{variants[0].stem}.log"
        log.unlink(missing_ok=True)  # a link would be written through
        job = Job(variants=variants, texts=self._texts.path, **self.settings)
        file = self._texts.path.with_name("job.json")
        file.write_text(job.model_dump_json())
        error = None
        try:
            if status := (yield from self.workers.watch([file], log, self.stall, read_news)):
                error = f"{explain_failure(status, log)} (log: {log.name})"
        except ServingError as failed:
            error = failed.reason
        if rest := read_news():
            yield rest
        return error

    def _take(self, entries: list[Entry]) -> None:
        self._texts.take(entries)
        self.outcome.take(entries)
        self._loaded += [entry["variant"] for entry in entries if "loaded" in entry]

    def _blame(self, variants: list[Variant], error: str) -> list[Entry]:
        """Give up what an engine was at when it ended, so that the next one goes on behind it.

        Raises:
            ServingError: no engine has been started yet.
        """
        if not (self.started or self.outcome.loaded):
            raise ServingError(error)
        if not self._loaded:  # not even its first checkpoint
            first = variants[0]
            return [_refuse(first, asked.requests, error) for asked in first.asked]
        left = self._list_left(variants)
        if left and left[0].stem == self._loaded[-1]:
            return [_refuse(left[0], left[0].asked[0].requests, error)]
        return [{"variant": left[0].stem, "refused": error}] if left else []

    def _list_left(self, variants: list[Variant]) -> list[Variant]:
        """The variants with what they are still to answer."""
        left, gone = [], {*self.outcome.errors, *self.outcome.nan}
        for variant in variants:
            asked = []
            for task in variant.asked:
                known = self._texts.known(variant.stem, task.requests)
                lacking = [index for index in task.lacking if index not in known]
                if task.sampled and lacking:
                    lacking = task.lacking
                if lacking and (variant.stem, task.requests) not in gone:
                    asked.append(task.model_copy(update={"lacking": lacking}))
            if asked:
                left.append(variant.model_copy(update={"asked": asked}))
        return left


def _refuse(variant: Variant, requests: str, error: str) -> Entry:
    return {"variant": variant.stem, "asked": requests, "error": error}


def _count_lacking(variants: list[Variant]) -> int:
    return sum(len(asked.lacking) for variant in variants for asked in variant.asked)
