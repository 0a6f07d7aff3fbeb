"""A model and how it is to write → a file with its text, which is read as any local data set."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.scoring.generation.texts import Entry, Tail, Text, Texts, read_kept
from bench.serving import EngineMissingError, device_name, engine_version
from bench.serving.workers import ServingError, Workers, explain_failure
from bench.writing.job import Job
from replaceme import Edit
from replaceme.calibration import COLUMN, GENERATED, CalibrationData, Prompt, RowCount, read_prompts
from replaceme.chat import USUAL_DAY
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError
from replaceme.io import contents, loading
from replaceme.io.files import write_atomically
from replaceme.report import Report, no_report

Run = Callable[..., Iterator[list[Entry]]]

STALL = 1800.0  # seconds without a finished text after which an engine is taken to hang


@dataclass(frozen=True)
class Written:
    """What a model wrote.

    Attributes:
        texts: number of those that say something.
        tokens: of them.
        empty: number of those that ended at once, which are left out.
        cut_off: share of the texts that ended for want of room.
        distinct: mean share of different ones among a text's runs of 4 tokens.
        prompts: what became of the rows that were to be answered, if there were any.
    """

    texts: int
    tokens: int
    empty: int
    cut_off: float
    distinct: float | None
    prompts: RowCount | None = None

    @classmethod
    def of(cls, texts: list[Text], prompts: RowCount | None) -> Written:
        """By all texts."""
        full = [text for text in texts if text.text.strip()]
        distinct = [text.distinct for text in full if text.distinct is not None]
        return cls(
            texts=len(full),
            tokens=sum(text.tokens for text in full),
            empty=len(texts) - len(full),
            cut_off=fmean(text.cut_off for text in full),
            distinct=fmean(distinct) if distinct else None,
            prompts=prompts,
        )

    def tell(self) -> str:
        """The same for a person to read."""
        said = f"{self.tokens:,} tokens in {self.texts:,} texts, {self.cut_off:.0%} of them cut off"
        said += f"; {self.empty:,} empty ones are left out" if self.empty else ""
        if self.distinct is not None:
            said += f"; {self.distinct:.1%} of a text's runs of 4 tokens differ"
        if self.prompts and self.prompts.skipped:
            said += f"; {self.prompts.skipped:,} prompts were skipped; {self.prompts.first}"
        return said


def write_text(
    checkpoint: Checkpoint,
    data: CalibrationData,
    out: Path,
    key: str,
    day: date = USUAL_DAY,
    *,
    dtype: str | None = None,
    device: str | None = None,
    written_on: str | None = None,
    logs: Path | None = None,
    report: Report = no_report,
    run: Run | None = None,
) -> Written:
    """Have a model write its text, and put it into a file, a JSON object with ``text`` a line.

    What is written lies beside the file until it is whole; the same again goes on from there.

    Args:
        data: of which ``generated`` says how to write, and ``dataset`` to which prompts.
        key: identity of the text; what was begun with another is not gone on with.
        day: today, for a chat template that asks.
        dtype: to compute in; ``None``: what is fast there.
        device: of torch, where it is computed; ``None``: here.
        written_on: the name of that; ``None``: that of this machine.
        logs: folder for the engine's output; ``None``: it is not kept.
        report: told which share of the tokens is there.
        run: has :func:`run_engine` called with some arguments, and yields what that does; ``None``: it
            is called here.

    Raises:
        InputError: vLLM is missing or fails, the model writes nothing, or no prompt can be used.
        OutputError: the file cannot be written.
    """
    if engine_version() is None:
        raise InputError(f"dataset {GENERATED!r}: {EngineMissingError().reason}")
    assert data.generated
    tokenizer = loading.load_tokenizer(checkpoint.folder, checkpoint.trust_remote_code)
    prompts, rows = list[Prompt](), None
    if data.dataset != GENERATED:
        prompts, rows = read_prompts(data, tokenizer, day)
    own = loading.checkpoint_dtype(checkpoint.folder)
    dtype = dtype or loading.fast_dtype(own, device or loading.default_device())
    written_on = written_on or device_name()
    scope = {"text": key, "engine": engine_version(), "device": written_on, "dtype": dtype}
    part = out.resolve().with_name(f".{out.name}.part")
    texts = Texts(part, scope)
    with _own_files_alone(checkpoint, out) as folder:
        job = Job(
            folder=folder,
            texts=part,
            scope=scope,
            starts=[p.ids for p in prompts] or [find_start(tokenizer)],
            answers=any(not isinstance(prompt.said, str) for prompt in prompts),
            limit=len(prompts) or None,
            generated=data.generated,
            longest=data.max_length,
            dtype=dtype,
            trust_remote_code=checkpoint.trust_remote_code,
        )
        asked = (job, checkpoint.name, logs)
        for entries in run(*asked) if run else run_engine(*asked, report):
            texts.keep(entries)
    known = texts.known("", "")
    wanted = [known[i] for i in job.list_wanted({i: text.tokens for i, text in known.items()})]
    write_atomically(out, _as_lines(wanted, prompts))
    part.unlink()
    return Written.of(wanted, rows)


def find_start(tokenizer: Any) -> list[int]:
    """What a text of a model goes on from: BOS where texts are read with it, else a line break.

    A BOS that is not before every text, such as the mark of a turn in a chat, is no beginning that a
    model knows; what comes behind it is nonsense.

    Raises:
        InputError: there is neither.
    """
    if tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return [tokenizer.bos_token_id]
    if start := tokenizer("\n", add_special_tokens=False)["input_ids"]:
        return list(start)
    raise InputError(
        f"dataset {GENERATED!r}: the tokenizer has neither a BOS nor a line break for a text to begin "
        f"with; name a data set of prompts beside 'generated'."
    )


@contextmanager
def _own_files_alone(checkpoint: Checkpoint, out: Path) -> Iterator[Path]:
    """The folder of a checkpoint; a copy where vLLM would read other weights as well."""
    if not contents.has_other_weights(checkpoint.folder):
        yield checkpoint.folder
        return
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.resolve().parent) as scratch:
        checkpoint.write(Edit(), Path(scratch, "model"), None)
        yield Path(scratch, "model")


def run_engine(
    job: Job, name: str, logs: Path | None, report: Report = no_report
) -> Iterator[list[Entry]]:
    """Have an engine write what is not in the job's file yet; yields the texts as they come.

    Args:
        name: of the model.
        logs: folder for the engine's output; ``None``: it is not kept.
        report: told which share of the tokens is there.

    Raises:
        InputError: it fails, or hangs.
    """
    if logs:
        logs.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="writing-", dir=logs) as scratch,
        Workers("bench.writing.worker") as workers,
    ):
        texts = Texts(Path(scratch, "texts.jsonl").resolve(), job.scope)
        texts.keep(read_kept(job.texts, job.scope))
        known, tail, tokens = texts.known("", ""), Tail(texts.path), 0

        def read_news() -> list[Entry]:
            nonlocal tokens
            entries = [entry for entry in tail.read() if "text" in entry]
            tokens += sum(Text(*entry["text"]).tokens for entry in entries)
            report(min(1.0, tokens / job.generated.tokens))
            return [entry for entry in entries if entry["index"] not in known]

        file, log = Path(scratch, "job.json"), (logs or Path(scratch)) / f"{job.texts.stem[1:]}.log"
        log.unlink(missing_ok=True)  # a link would be written through
        file.write_text(job.model_copy(update={"texts": texts.path}).model_dump_json())
        try:
            status = yield from workers.watch([file], log, STALL, read_news)
            reason = explain_failure(status, log) if status else None
        except ServingError as error:
            reason = error.reason
        if rest := read_news():
            yield rest
    if reason:
        kept = f" (log: {log.name})" if logs else ""
        raise InputError(f"model {name!r} did not write its text: {reason.rstrip('.')}{kept}.")


def _as_lines(texts: list[Text], prompts: list[Prompt]) -> bytes:
    """The file, without texts that say nothing."""
    rows = [
        prompts[index].answered(text.text) if prompts else text.text
        for index, text in enumerate(texts)
        if text.text.strip()
    ]
    return "".join(json.dumps({COLUMN: row}, ensure_ascii=False) + "\n" for row in rows).encode()
