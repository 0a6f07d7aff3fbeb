"""What in a folder is the model: the files that transformers' ``from_pretrained`` reads.

Folders also hold other weights: an older set with its index, adapters, other formats, second copies.
Everything here that reads weights, counts them or copies them asks this module which ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from replaceme.errors import InputError
from replaceme.io.tensorfile import Entry, read_header

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
NAMED = "transformers_weights"  # the config key by which a checkpoint names its weights itself
USED = (
    "generation_config.json",
    *("tokenizer*.json", "*token*.json", "tekken.json", "*vocab*.json", "*vocab*.txt", "*.vocab"),
    *("merges*.txt", "*.model", "tokenizer.model.*", "*.tiktoken", "*.spm", "*.bpe", "*.codes"),
    *("chat_template.*", "additional_chat_templates/*.jinja"),
    *("preprocessor_config.json", "*_preprocessor_config.json", "processor_config.json"),
    *("*.py", "custom_generate/*.py", "custom_generate/requirements.txt"),
)
CARRIED = (*USED, "readme.md", "license*", "notice*", "use_policy*")

OTHER_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".gguf")


@dataclass(frozen=True)
class Stored:
    """A tensor and the file that it is read from."""

    file: Path
    entry: Entry

    @property
    def bytes(self) -> int:
        return self.entry.end - self.entry.start


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint, in the order in which transformers reads them.

    What the config names as ``transformers_weights``, else ``model.safetensors``, else the files that
    ``model.safetensors.index.json`` lists. Empty: there are none.

    Raises:
        InputError: the index cannot be read, or something outside the folder is named.
    """
    named = _config(folder).get(NAMED)
    if named is not None:
        file = _inside(folder, named, f"{folder / CONFIG}: {NAMED}")
        return _list_indexed(folder, file) if file.name.endswith(".index.json") else [file]
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    return _list_indexed(folder, folder / INDEX) if (folder / INDEX).is_file() else []


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """The tensors of a checkpoint's files by name; of one that several files hold, the last.

    Raises:
        InputError: a file cannot be read.
    """
    return {
        entry.name: Stored(file, entry)
        for file in weight_files(folder)
        for entry in read_header(file)[0]
    }


def tensor_names(folder: Path) -> set[str]:
    """Names of the tensors in a checkpoint's files."""
    return set(stored_tensors(folder))


def carried_files(folder: Path) -> list[Path]:
    """The files, relative to a folder, that belong to a checkpoint besides config and weights.

    What transformers loads a tokenizer, a processor, generation settings and a model's own code from,
    with card and licence. All of it is as true of the pruned model as of the intact one.
    """
    return [file for file in _files(folder) if _is_carried(file)]


def used_files(folder: Path) -> list[Path]:
    """Those of them that a program loads: all but card and licence."""
    return [file for file in carried_files(folder) if _is_like(file, USED)]


def left_behind(folder: Path) -> list[str]:
    """Names of what a folder holds besides, folders with a slash: what is not known to agree with the
    pruned model, such as other weights, adapters and settings of quantised copies."""
    weights = {file.relative_to(folder) for file in weight_files(folder)}
    own = {Path(CONFIG), *weights, *([Path(INDEX)] if _is_indexed(folder) else [])}
    others = {file for file in _files(folder) if file not in own and not _is_carried(file)}
    return sorted({f"{file.parts[0]}/" if len(file.parts) > 1 else file.name for file in others})


def has_other_weights(folder: Path) -> bool:
    """Whether a folder holds weights besides the model's, which some program may read instead.

    vLLM, for one, reads every .safetensors file that an index does not exclude.
    """
    return any(name.endswith(OTHER_WEIGHTS) for name in left_behind(folder))


def left_line(folder: Path) -> list[str]:
    """What is left behind, for a person to read; no line where nothing is."""
    names = left_behind(folder)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return [f"Left behind, as not the model's: {', '.join(names[:8])}{more}."] if names else []


def _is_indexed(folder: Path) -> bool:
    return NAMED not in _config(folder) and not (folder / WEIGHTS).is_file()


def _files(folder: Path) -> list[Path]:
    """All files below a folder but the hidden ones and caches of Python."""
    found = (file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file())
    return [f for f in found if not any(p.startswith(".") or p == "__pycache__" for p in f.parts)]


def _is_carried(file: Path) -> bool:
    return _is_like(file, CARRIED)


def _is_like(file: Path, names: tuple[str, ...]) -> bool:
    path = PurePosixPath(file)
    patterns = [pattern for pattern in names if pattern.count("/") == len(path.parts) - 1]
    return any(fnmatchcase(str(path).lower(), pattern) for pattern in patterns)


def _config(folder: Path) -> dict[str, Any]:
    """The config, or nothing where it cannot be read, which is told elsewhere."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _list_indexed(folder: Path, index: Path) -> list[Path]:
    """The files that an index lists."""
    try:
        content = json.loads(index.read_text("utf-8"))
        names = sorted(set(content["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index} is damaged: it has no weight_map from tensors to files.") from None
    if not isinstance(content.get("metadata"), dict):
        raise InputError(f"{index} is damaged: it has no metadata, without which nothing loads it.")
    return [_inside(folder, name, f"{index}: weight_map") for name in names]


def _inside(folder: Path, name: Any, where: str) -> Path:
    """A safetensors file or index of a folder by its name."""
    if not isinstance(name, str) or not name.endswith((".safetensors", ".safetensors.index.json")):
        raise InputError(f"{where} names {name!r}; allowed are .safetensors files.")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{where} names {name!r}, which is outside the folder.")
    return folder / path
