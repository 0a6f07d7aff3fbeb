"""A dataset → token sequences → batches.

Rules, the same for every source:

* A row of text gets the special tokens that its tokenizer adds by default. A row of messages goes
  through the model's chat template, which writes its own special tokens.
* A ``.txt`` file (or a built-in text) is cut into consecutive windows of ``max_length`` tokens; each
  starts with the tokenizer's BOS where the tokenizer would put one.
* Batches are padded on the right. Attention is causal, so padding cannot reach a real token, and no
  statistic reads a padded position (but for ``compat: reference``, see :mod:`replaceme.reference`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from replaceme.chat import USUAL_DAY, apply_chat_template
from replaceme.errors import InputError, nearest
from replaceme.lengths import ALIKE, Lengths

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

BUILTIN_PREFIX = "builtin:"
BUILTINS = {"prose": "prose.txt"}
PICKLES = {".pkl", ".pickle", ".pth", ".pt", ".bin"}
TABLES = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


class CalibrationData(BaseModel):
    """Which text the statistics are taken from; the ``calibration`` section of a suite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(
        "builtin:prose",
        description="hub id, local folder, .jsonl/.parquet/.txt file, or builtin:prose",
    )
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split of a hub data set")
    revision: str | None = Field(None, description="revision of a hub data set")
    column: str = Field("text", description="column with a text, or with a list of chat messages")
    samples: int = Field(192, gt=0, description="number of sequences at most")
    max_length: int = Field(256, gt=1, description="tokens per sequence at most")
    seed: int = Field(42, ge=0, description="seed of the choice of rows and of sampled tokens")

    def local_file(self) -> Path | None:
        """The file behind ``dataset``, or ``None`` for a hub data set.

        Raises:
            InputError: an unknown built-in, a missing file, or a pickle.
        """
        if self.dataset.startswith(BUILTIN_PREFIX):
            return builtin(self.dataset.removeprefix(BUILTIN_PREFIX))
        path = Path(self.dataset).expanduser()
        if path.suffix in PICKLES:
            raise InputError(
                f"calibration dataset {self.dataset!r} is a pickle, which can run code when it is read; "
                f"give a .jsonl, .parquet or .txt file."
            )
        if path.suffix in {*TABLES, ".txt"}:
            if not path.is_file():
                raise InputError(f"calibration dataset {self.dataset!r}: no such file.")
            return path
        return None

    @property
    def is_plain_text(self) -> bool:
        """Whether it is one text without rows, so that no chat template is needed."""
        return self.dataset.startswith(BUILTIN_PREFIX) or Path(self.dataset).suffix == ".txt"

    def fingerprint(self) -> str:
        """SHA-256 of the local file, or the hub id with its revision (nothing is downloaded)."""
        if (path := self.local_file()) is not None:
            return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        if Path(self.dataset).expanduser().is_dir():
            return "folder:" + folder_hash(Path(self.dataset).expanduser())
        return f"hub:{self.dataset}@{self.revision or 'main'}"


def builtin(name: str) -> Path:
    """Path of a calibration text that ships with the package."""
    if name not in BUILTINS:
        raise InputError(
            f"calibration dataset 'builtin:{name}' does not exist; built in are "
            f"{', '.join(BUILTIN_PREFIX + known for known in BUILTINS)}."
        )
    return Path(str(resources.files("replaceme") / "data" / BUILTINS[name]))


def folder_hash(folder: Path) -> str:
    """SHA-256 over names and contents of the data files of a local data set folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            digest.update(str(inside).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def load_sequences(data: CalibrationData, tokenizer: Any, day: date = USUAL_DAY) -> list[list[int]]:
    """Token ids of the calibration sequences, ready for :class:`Batches`.

    Args:
        day: today, for a chat template that asks.

    Returns:
        At most ``data.samples`` lists of 1 to ``data.max_length`` token ids.

    Raises:
        InputError: the data set cannot be read, lacks the column, or holds no text.
    """
    path = data.local_file()
    if path is not None and path.suffix == ".txt":
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"calibration dataset {data.dataset!r} cannot be read: it is not UTF-8 text ({error})."
            ) from None
        sequences = windows(text, tokenizer, data.max_length, data.samples)
    else:
        sequences = tokenize(rows_of(data), tokenizer, data.max_length, day)
    if not sequences:
        raise InputError(f"calibration dataset {data.dataset!r} holds no text.")
    return sequences


def tokenize(
    rows: Sequence[Any], tokenizer: Any, max_length: int, day: date = USUAL_DAY
) -> list[list[int]]:
    """Token ids of texts or message lists, cut to ``max_length``; empty ones are left out."""
    encoded = (_encode(row, tokenizer, day) for row in rows)
    return [ids[:max_length] for ids in encoded if ids]


def padding_token(tokenizer: Any) -> int:
    """The token that the tokenizer pads with, or its EOS where it has none."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return pad or 0


def windows(text: str, tokenizer: Any, max_length: int, count: int | None = None) -> list[list[int]]:
    """Consecutive windows of ``max_length`` tokens; a shorter rest is left out unless it is all."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text.strip() else []
    start = tokenizer("x")["input_ids"][:1]
    bos = start if start == [tokenizer.bos_token_id] else []
    size = max_length - len(bos)
    cut = [bos + ids[i : i + size] for i in range(0, len(ids) - size + 1, size)]
    return (cut or [bos + ids] * bool(ids))[:count]


def _encode(row: Any, tokenizer: Any, day: date) -> list[int]:
    if isinstance(row, str):
        return tokenizer(row, verbose=False)["input_ids"] if row.strip() else []
    if isinstance(row, list) and row and isinstance(row[0], dict):
        if not tokenizer.chat_template:
            raise InputError(
                "the calibration column holds chat messages, but the model's tokenizer has no chat "
                "template; name a column of plain text."
            )
        return apply_chat_template(tokenizer, _messages(row), day, tokenize=True, return_dict=False)
    if not row:
        return []
    raise InputError(
        f"the calibration column holds {type(row).__name__} values; allowed are texts, and lists of "
        f"messages with role and content."
    )


def _messages(row: list[dict[str, str]]) -> list[dict[str, str]]:
    """Messages with ``role`` and ``content``; the from/value form of ShareGPT is translated."""
    for message in row:
        if not ({"role", "content"} <= message.keys() or {"from", "value"} <= message.keys()):
            raise InputError(
                f"the calibration column holds messages with {', '.join(message)}; needed are role and "
                f"content, or from and value."
            )
    return [
        message
        if "role" in message
        else {"role": ROLES.get(message["from"], message["from"]), "content": message["value"]}
        for message in row
    ]


def rows_of(data: CalibrationData, in_order: bool = False) -> list[Any]:
    """The wanted column of a seeded choice of rows, or, ``in_order``, of the first rows.

    Raises:
        InputError: the data set cannot be read, or lacks the column.
    """
    import datasets

    path = data.local_file()
    where = f"calibration dataset {data.dataset!r}"
    try:
        if path is not None:
            table = datasets.load_dataset(TABLES[path.suffix], data_files=str(path), split="train")
        else:
            table = datasets.load_dataset(
                data.dataset, data.subset, split=data.split, revision=data.revision
            )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{where} cannot be read: {reason}") from error
    if data.column not in table.column_names:
        raise InputError(
            f"{where} has no column {data.column!r}{nearest(data.column, table.column_names)} Its "
            f"columns are {', '.join(table.column_names)}."
        )
    if len(table) > data.samples:
        table = (table if in_order else table.shuffle(seed=data.seed)).select(range(data.samples))
    return list(table[data.column])


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids.

    Attributes:
        ids: [sequences, tokens] int64.
        lengths: [sequences] int64, number of real tokens in each row.
        ranks: [counted tokens] int64, place of each counted token (row by row) in a seeded random
            order of all calibration tokens; the tokens with rank < k are a uniform sample of k tokens.
        counts_padding: whether moments count padding as tokens (``compat: reference``).
    """

    ids: Tensor
    lengths: Tensor
    ranks: Tensor
    counts_padding: bool = False

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], ranks: Tensor | None = None, pad: int = 0) -> Batch:
        """A batch of token sequences, filled up with ``pad``.

        Without ``ranks`` the tokens are ranked as they come.
        """
        import torch

        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), int(lengths.max())), pad)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row)] = torch.tensor(row)
        return cls(ids, lengths, torch.arange(int(lengths.sum())) if ranks is None else ranks)

    @property
    def mask(self) -> Tensor:
        """[sequences, tokens] bool, true at real tokens."""
        import torch

        return torch.arange(self.ids.shape[1]) < self.lengths[:, None]

    def inputs(self, model: PreTrainedModel) -> dict[str, Any]:
        """What a model is called with.

        Right padding and causal attention make an attention mask unnecessary for the real tokens; it
        is given where padding counts.
        """
        device = model.get_input_embeddings().weight.device
        mask = self.mask.to(device) if self.counts_padding else None
        return {"input_ids": self.ids.to(device), "attention_mask": mask}

    @property
    def counted(self) -> Tensor:
        """[sequences, tokens] bool, true at the tokens that moments count."""
        return self.mask | self.counts_padding


@dataclass(frozen=True)
class Batches:
    """All calibration tokens; can be iterated any number of times.

    Attributes:
        pad: token that fills up shorter sequences; it changes nothing unless padding counts.
        lengths: which sequences the model treats alike; only these come together.
    """

    sequences: list[list[int]]
    batch_size: int = 8
    seed: int = 42
    pad: int = 0
    lengths: Lengths = ALIKE

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))

    @property
    def counted(self) -> int:
        """Number of tokens that moments count."""
        return self.tokens

    def __len__(self) -> int:
        return sum(1 for _ in self._rows())

    def __iter__(self) -> Iterator[Batch]:
        """Batches of sequences of similar length, longest first."""
        import torch

        ranks = torch.randperm(self.tokens, generator=torch.Generator().manual_seed(self.seed))
        seen = 0
        for rows in self._rows():
            count = sum(map(len, rows))
            yield Batch.of(rows, ranks[seen : seen + count], self.pad)
            seen += count

    def _rows(self) -> Iterator[list[list[int]]]:
        for alike in self.lengths.groups(sorted(self.sequences, key=len, reverse=True), len):
            for start in range(0, len(alike), self.batch_size):
                yield alike[start : start + self.batch_size]

    def evenly(self, tokens: int) -> Batches:
        """Sequences from all over, ``tokens`` tokens at most (but one sequence at least)."""
        whole = len(self.sequences)
        count = max(1, min(whole, whole * tokens // self.tokens))
        chosen = [self.sequences[i * whole // count] for i in range(count)]
        fitting = sum(total <= tokens for total in accumulate(map(len, chosen)))
        return replace(self, sequences=chosen[: max(1, fitting)])

    def held_back(self, tokens: int) -> tuple[Batches, Batches]:
        """Two disjoint parts: the sequences to fit on, and about ``tokens`` tokens to judge on.

        The judging part is taken evenly from the whole; it is at most a tenth of the sequences, and
        empty where that is less than one.
        """
        mean = max(1, self.tokens // max(1, len(self.sequences)))
        count = min(-(-tokens // mean), len(self.sequences) // 10)
        judged = {round((i + 0.5) * len(self.sequences) / count - 0.5) for i in range(count)}
        split = [
            [row for i, row in enumerate(self.sequences) if (i in judged) == side] for side in (0, 1)
        ]
        fitted, held = (replace(self, sequences=rows) for rows in split)
        return fitted, held
