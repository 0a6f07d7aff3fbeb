"""Has variants of one shape write texts, in as few engines as that takes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.scoring.generation.job import Job, Variant
from bench.scoring.generation.texts import Texts, read_entries
from bench.serving.workers import ServingError, Workers, explain_failure

TEXT = b'"text":'  # in an entry that is a text, and in no other: quotes inside a text are escaped
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

    def take(self, entries: Iterable[dict[str, Any]]) -> None:
        """Add what an engine's process told of its work."""
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
        texts: Texts,
        logs: Path,
        report: Callable[[float], None],
        stall: float = STALL,
        **settings: Any,
    ) -> None:
        """Prepare.

        Args:
            logs: folder for the output of the engines.
            report: told the share of the texts that are there.
            stall: seconds without a finished text after which an engine is killed.
            settings: of :class:`Job`, for all engines.
        """
        self.texts, self.logs, self.report, self.settings = texts, logs, report, settings
        self.stall = stall
        self.outcome = Outcome()
        self.workers = Workers("bench.scoring.generation.worker")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.close()

    def answer(self, variants: list[Variant]) -> Outcome:
        """Have variants of one shape answer what they are asked.

        Raises:
            ServingError: no engine could be started.
        """
        self._total = sum(len(asked.lacking) for variant in variants for asked in variant.asked)
        while variants:
            begun = self.texts.path.stat().st_size
            error = self._run(variants, begun)
            entries = [*read_entries(self.texts.path, begun)]
            self.texts.take(entries)
            self.outcome.take(entries)
            if error:
                self._blame(variants, error, [e["variant"] for e in entries if "loaded" in e])
            variants = self._list_left(variants)
        return self.outcome

    def _run(self, variants: list[Variant], begun: int) -> str | None:
        """Run one engine; returns why it did not come to its end, if so."""
        done = self._total - _count_lacking(variants)
        seen = begun

        def has_moved() -> bool:
            nonlocal done, seen
            with self.texts.path.open("rb") as file:
                file.seek(seen)
                new = file.read()
            seen += len(new)
            done += new.count(TEXT)
            if new:
                self.report(min(1.0, done / max(1, self._total)))
            return bool(new)

        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"generate-{variants[0].stem}.log"
        log.unlink(missing_ok=True)  # a link would be written through
        job = Job(variants=variants, texts=self.texts.path.resolve(), **self.settings)
        with tempfile.TemporaryDirectory(prefix="generation-", dir=self.logs) as scratch:
            file = Path(scratch, "job.json")
            file.write_text(job.model_dump_json())
            try:
                status = self.workers.run([file], log, self.stall, has_moved)
            except ServingError as error:
                return error.reason
        return f"{explain_failure(status, log)} (log: {log.name})" if status else None

    def _blame(self, variants: list[Variant], error: str, loaded: list[str]) -> None:
        """Give up what an engine was at when it ended, so that the next one goes on behind it.

        Raises:
            ServingError: no engine has been started yet.
        """
        if not self.outcome.loaded:
            raise ServingError(error)
        if not loaded:  # not even its first checkpoint
            self.outcome.errors |= {
                (variants[0].stem, asked.requests): error for asked in variants[0].asked
            }
            return
        left = self._list_left(variants)
        if left and left[0].stem == loaded[-1]:
            self.outcome.errors[left[0].stem, left[0].asked[0].requests] = error
        elif left:
            self.outcome.afresh[left[0].stem] = error

    def _list_left(self, variants: list[Variant]) -> list[Variant]:
        """The variants with what they are still to answer."""
        left, gone = [], {*self.outcome.errors, *self.outcome.nan}
        for variant in variants:
            asked = []
            for task in variant.asked:
                known = set(self.texts.list_lacking(variant.stem, task.requests, 1 + max(task.lacking)))
                lacking = [index for index in task.lacking if index in known]
                if task.sampled and lacking:
                    lacking = task.lacking
                if lacking and (variant.stem, task.requests) not in gone:
                    asked.append(task.model_copy(update={"lacking": lacking}))
            if asked:
                left.append(variant.model_copy(update={"asked": asked}))
        return left


def _count_lacking(variants: list[Variant]) -> int:
    return sum(len(asked.lacking) for variant in variants for asked in variant.asked)
