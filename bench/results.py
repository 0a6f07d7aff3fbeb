"""Where results lie: a result folder, one record file, or a git revision of either."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.records import Record
from bench.store import Store, read_record
from replaceme.errors import InputError

Samples = dict[str, dict[str, list[Any]]]
Key = tuple[str, int, str]
FILES = re.compile(r"records/[^/]+\.json|samples/[^/]+\.jsonl\.gz")
TRANSCRIPTS = re.compile(FILES.pattern + r"|(?:questions|responses/[^/]+)/[^/]+\.jsonl\.gz")


def key_of(record: Record) -> Key:
    """What a cell is called: its model, the number of layers removed, and its label."""
    return record.model, record.layers, record.label


def latest(records: Iterable[Record]) -> dict[Key, Record]:
    """The record of each cell; of several (an older calibration, say) the latest counts."""
    ordered = sorted(records, key=lambda record: record.updated or "")
    return {key_of(record): record for record in ordered}


@dataclass(frozen=True)
class Results:
    """Some records with their per-item scores.

    Attributes:
        source: what the user called it.
        folder: where ``records/``, ``samples/`` and what was asked and answered lie.
        records: file stem → record, at least one.
        single: whether it is one record file rather than a result set.
    """

    source: str
    folder: Path
    records: dict[str, Record]
    single: bool = False
    _held: Any = field(default=None, repr=False)  # keeps a temporary folder for as long as this lives

    @cached_property
    def cells(self) -> dict[Key, str]:
        """The latest record of each cell, as its stem."""
        stems = {id(record): stem for stem, record in self.records.items()}
        return {key: stems[id(record)] for key, record in latest(self.records.values()).items()}

    def without_training(self) -> Results:
        """The same without the cells of which something was trained after pruning."""
        kept = {stem: record for stem, record in self.records.items() if record.identity.heal is None}
        return replace(self, records=kept)

    def samples(self, stem: str) -> Samples:
        """Task → {"doc_id": […], metric: […]}; empty where there are none.

        Raises:
            InputError: a file that cannot be read.
        """
        path = self.folder / "samples" / f"{stem}.jsonl.gz"
        try:
            return Store(self.folder).read_samples(stem)
        except InputError as error:
            raise InputError(str(error).replace(str(path), _named(path, self))) from None


def open_results(source: str, transcripts: bool = False) -> Results:
    """A result folder, a record file, or ``REV:PATH`` for either as git has it at a revision.

    Args:
        transcripts: whether what was asked and answered is wanted, too.

    Raises:
        InputError: nothing there, or what is there is not results.
    """
    path = Path(source)
    if path.is_dir():
        return _folder(source, path)
    if path.is_file():
        return _file(source, path)
    revision, colon, inside = source.partition(":")
    if not colon:
        raise InputError(
            f"{source} does not exist; name a result folder, a record file, or REVISION:FOLDER."
        )
    return at_revision(revision, inside.rstrip("/"), Path(), transcripts)


def at_revision(revision: str, inside: str, repository: Path, transcripts: bool = False) -> Results:
    """Results as git has them at a revision, without touching the work tree.

    Args:
        inside: folder or record file, as git takes it after the colon: from the top of the work tree, or
            from here with ``./``.
        repository: a folder of the work tree.
        transcripts: whether what was asked and answered is wanted, too.

    Raises:
        InputError: not a repository, no such revision or folder, or no results in it.
    """
    source = f"{revision}:{inside}"
    held = tempfile.TemporaryDirectory(prefix="replaceme-")
    folder = Path(held.name)
    wanted = TRANSCRIPTS if transcripts else FILES
    if inside.endswith(".json"):
        top, _, stem = inside.removesuffix(".json").rpartition("records/")
        wanted = re.compile(f"(?=questions/|[^/]+/{re.escape(stem)}[./])(?:{wanted.pattern})")
        _extract(f"{revision}:{top.rstrip('/')}", wanted, folder, repository)
        path = folder / "records" / f"{stem}.json"
        if not path.is_file():
            raise InputError(f"{source} is not a record; it would be in a folder named records.")
    else:
        _extract(source, wanted, folder, repository)
        path = folder
    try:
        found = _file(source, path) if path.is_file() else _folder(source, path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), source)) from None
    return Results(source, found.folder, found.records, found.single, held)


def _folder(source: str, path: Path) -> Results:
    records = Store(path).all()
    if not records:
        raise InputError(f"{path} holds no records; name a folder that 'replaceme-bench run' wrote.")
    return Results(source, path, records)


def _file(source: str, path: Path) -> Results:
    return Results(source, path.parent.parent, {path.stem: read_record(path)}, single=True)


def _extract(tree: str, wanted: re.Pattern[str], folder: Path, repository: Path) -> None:
    """Write the wanted files of a tree of git below a folder."""
    listing = git(repository, "ls-tree", "-r", "-z", "--full-tree", "--end-of-options", tree)
    blobs = {}
    for line in filter(None, listing.decode(errors="replace").split("\0")):
        about, _, name = line.partition("\t")
        mode, _, digest = about.split(" ")
        regular = mode.startswith("100")  # neither a link nor a submodule
        if regular and wanted.fullmatch(name):
            blobs[name] = digest
    content = git(repository, "cat-file", "--batch", stdin="\n".join(blobs.values()).encode())
    for name in blobs:
        head, _, content = content.partition(b"\n")
        size = int(head.split()[2])
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[:size])
        content = content[size + 1 :]


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """What a git command prints.

    Raises:
        InputError: it fails, with git's own reason; or git is not installed.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], input=stdin, capture_output=True, check=False
        )
    except (OSError, ValueError) as error:  # a null byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"git cannot be run: {reason}.") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or ["unknown"]
        subject = arguments[-1] if "--end-of-options" in arguments else str(folder)
        raise InputError(f"{subject}: git says: {reason[0].removeprefix('fatal: ')}.")
    return done.stdout


def _named(path: Path, results: Results) -> str:
    """A path as the user would call it."""
    if results._held is None:
        return str(path)
    return f"{results.source.removesuffix('/')}/{path.relative_to(results.folder)}"
