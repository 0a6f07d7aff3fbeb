"""Which text a model is calibrated on, as a suite or a command names it."""

from __future__ import annotations

import hashlib
import re
import stat
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from replaceme.calibration.generated import COLUMN, GENERATED, Generated, name_generated
from replaceme.errors import InputError

BUILTIN_PREFIX = "builtin:"
BUILTINS = {"prose": "prose.txt"}
PICKLES = {".pkl", ".pickle", ".pth", ".pt", ".bin"}
KINDS = {
    ".txt": "text",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
PACKED = {".gz"}  # of .txt, .json, .jsonl, .csv and .tsv
ALLOWED = "a .jsonl, .json, .csv, .tsv, .txt, .parquet or .arrow file (the first five also as .gz)"
BUFFER = 10_000  # rows that a stream is shuffled within
PART = r"\s*\w+(\.\w+)*(\[(-?[\d_]+%?)?:(-?[\d_]+%?)?\](\(\w+\))?)?\s*"
SPLIT = re.compile(rf"{PART}(\+{PART})*")


class CalibrationData(BaseModel):
    """Which text the statistics are taken from; the ``calibration`` section of a suite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(
        "builtin:prose",
        description="hub id, local folder, .jsonl/.json/.csv/.tsv/.parquet/.arrow/.txt file (.gz as "
        "well), builtin:prose, or generated: text that the model writes itself",
    )
    generated: Generated | None = Field(
        None,
        description="how the model writes its text itself; with a dataset: its own answers to the "
        "prompts in the column",
    )
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split, or a part of it such as train[:1000]")
    revision: str | None = Field(None, description="revision of a hub data set; null: its newest")
    streaming: bool = Field(
        False,
        description=f"read a hub data set or a folder row by row instead of downloading it; rows are "
        f"shuffled within {BUFFER:,}",
    )
    column: str = Field("text", description="column with a text, or with a list of chat messages")
    samples: int = Field(192, gt=0, description="number of sequences at most")
    max_length: int = Field(256, gt=1, description="tokens per sequence at most")
    seed: int = Field(42, ge=0, description="seed of the choice of rows and of sampled tokens")

    _name_generated = model_validator(mode="before")(name_generated)

    @property
    def where(self) -> str:
        """How messages begin."""
        return f"calibration dataset {self.dataset!r}"

    def local_file(self) -> Path | None:
        """The file behind ``dataset``, or ``None`` for a hub data set, a folder, or none at all.

        Raises:
            InputError: an unknown built-in, a missing file, a file of another kind, or a pickle.
        """
        if self.dataset.startswith(BUILTIN_PREFIX):
            return builtin(self.dataset.removeprefix(BUILTIN_PREFIX))
        if self.dataset == GENERATED:
            return None
        path = Path(self.dataset).expanduser()
        if path.suffix.lower() in PICKLES:
            raise InputError(
                f"{self.where} is a pickle, which can run code when it is read; give {ALLOWED}."
            )
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError):
            if is_data_file(path):
                raise InputError(f"{self.where}: no such file.") from None
            return None
        if stat.S_ISDIR(mode):
            return None
        if not stat.S_ISREG(mode):
            raise InputError(f"{self.where} cannot be read: it is no regular file.")
        if not is_data_file(path):
            raise InputError(f"{self.where} is a file of another kind; give {ALLOWED}.")
        return path

    def local_folder(self) -> Path | None:
        """The folder behind ``dataset``, if there is one."""
        if self.dataset == GENERATED:
            return None
        path = Path(self.dataset).expanduser()
        try:
            return path if path.is_dir() else None
        except (OSError, ValueError):
            return None

    @property
    def is_plain_text(self) -> bool:
        """Whether it is one text without rows, so that no chat template is needed."""
        return self.generated is None and self.has_no_rows

    @property
    def has_no_rows(self) -> bool:
        """Whether ``dataset`` is one text."""
        return self.dataset.startswith(BUILTIN_PREFIX) or kind_of(Path(self.dataset)) == "text"

    def fingerprint(self) -> str:
        """SHA-256 of the local data, or the hub id with its revision (nothing is downloaded).

        Of text that the model writes, that of the prompts; ``generated`` where there are none.
        """
        if self.dataset == GENERATED:
            return GENERATED
        if (path := self.local_file()) is not None:
            return "sha256:" + file_hash(path)
        if (folder := self.local_folder()) is not None:
            return "folder:" + folder_hash(folder)
        return f"hub:{self.dataset}@{self.revision or 'main'}"

    def identity(self) -> dict[str, Any]:
        """What the sequences depend on, as far as it is known before they are read."""
        found = self.described(exclude={"dataset", "streaming"}) | {"data": self.fingerprint()}
        return found | ({"streaming": BUFFER} if self.streaming else {})

    def described(self, exclude: set[str] | None = None) -> dict[str, Any]:
        """The fields as JSON; ``generated`` only where the model writes."""
        unsaid = set() if self.generated else {"generated"}
        return self.model_dump(mode="json", exclude=unsaid | (exclude or set()))

    def writing(self) -> dict[str, Any]:
        """What text that the model writes depends on besides the model."""
        own, asks = {"generated", "max_length"}, self.dataset != GENERATED
        return {key: value for key, value in self.identity().items() if asks or key in own}

    def written(self, file: Path) -> CalibrationData:
        """The same with the text that the model wrote in a file."""
        assert self.generated
        return self.model_copy(update={"generated": self.generated.written(file)})

    def read_from(self) -> CalibrationData:
        """The data set that the rows are in: this one, or the file that the model's text was written to.

        Raises:
            InputError: it is not written yet.
        """
        if self.generated is None:
            return self
        if self.generated.file is None:
            raise InputError(
                f"{self.where} is text that the model writes itself, which a suite has it do; elsewhere "
                f"run `replaceme-bench generate MODEL --out FILE.jsonl` before, and name the file."
            )
        return CalibrationData(
            dataset=str(self.generated.file),
            column=COLUMN,
            samples=self.samples,
            max_length=self.max_length,
            seed=self.seed,
        )


def kind_of(path: Path) -> str | None:
    """What a file holds, by its name; ``None``: nothing that is read here."""
    suffix, inner = path.suffix.lower(), Path(path.stem).suffix.lower()
    if suffix not in PACKED:
        return KINDS.get(suffix)
    kind = KINDS.get(inner)
    return kind if kind in ("text", "json", "csv") else None


def is_data_file(path: Path) -> bool:
    """Whether a name is that of a file with calibration data."""
    return kind_of(path) is not None


def builtin(name: str) -> Path:
    """Path of a calibration text that ships with the package."""
    if name not in BUILTINS:
        raise InputError(
            f"calibration dataset 'builtin:{name}' does not exist; built in are "
            f"{', '.join(BUILTIN_PREFIX + known for known in BUILTINS)}."
        )
    return Path(str(resources.files("replaceme") / "data" / BUILTINS[name]))


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hash(folder: Path) -> str:
    """SHA-256 over names and contents of the data files of a local data set folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            digest.update(str(inside).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
