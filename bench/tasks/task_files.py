"""The files that a task's YAML names: what it includes, its data, and the modules of its functions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.tasks import index, task_yaml
from replaceme.calibration import PICKLES
from replaceme.errors import InputError
from replaceme.io.yaml_file import shown

if TYPE_CHECKING:
    from hashlib import _Hash

BLOCK = 1 << 20  # bytes read at a time


def hash_task(path: Path, include_path: list[Path]) -> str:
    """Hash of a task's YAML and of the files that it names.

    Raises:
        InputError: one of them is missing, a pickle, or a module that may not be run.
    """
    digest = hashlib.sha256()
    add_files(digest, _files(path, include_path), path.parent)
    return f"sha256:{digest.hexdigest()}"


def add_files(digest: _Hash, files: Iterable[Path], folder: Path) -> None:
    """Add files to a hash: their content, and their names as seen from a folder."""
    for file in files:
        name = file.relative_to(folder) if file.is_relative_to(folder) else Path(file.name)
        digest.update(name.as_posix().encode() + b"\0")
        with file.open("rb") as content:
            while block := content.read(BLOCK):
                digest.update(block)


def _files(path: Path, include_path: list[Path]) -> list[Path]:
    config = task_yaml.read_whole(path)  # which refuses what includes itself
    return [*_yamls(path), *list_named_files(path, config, include_path)]


def _yamls(path: Path) -> list[Path]:
    """A YAML file and all that it includes, directly or not."""
    files = task_yaml.list_includes(path, task_yaml.read_file(path))
    return [path, *(inner for file in files for inner in _yamls(file))]


def list_named_files(path: Path, config: Mapping[str, Any], include_path: list[Path]) -> list[Path]:
    """The data files and the modules of functions that the content of a YAML file names.

    Raises:
        InputError: one of them is missing, a pickle, or a module that may not be run.
    """
    functions = {
        text for text in task_yaml.collect_texts(dict(config)) if isinstance(text, task_yaml.Function)
    }
    modules = sorted({_module(path, function, include_path) for function in functions})
    return _data(path, config) + modules


def _dataset(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a YAML file calls its data set, and how it is to be read."""
    settings = config.get("dataset_kwargs")
    return str(config.get("dataset_path") or ""), settings if isinstance(settings, dict) else {}


def find_hub_dataset(path: Path, config: Mapping[str, Any]) -> str | None:
    """The data set on the hub that the content of a YAML file names; ``None``: its data are local."""
    source, settings = _dataset(config)
    local = (path.parent / Path(source).expanduser()).is_dir()
    reader = "/" not in source and (settings.get("data_files") or settings.get("data_dir"))
    return None if local or reader else source or None


def _data(path: Path, config: Mapping[str, Any]) -> list[Path]:
    """The local files that ``datasets`` looks among, and those that are named one by one."""
    source, settings = _dataset(config)
    inside = str(settings.get("data_dir") or "")
    folder = path.parent / Path(source).expanduser()
    local = bool(source) and folder.is_dir()
    if not local and source.startswith((".", "/", "~")) and not folder.is_file():
        raise InputError(f"{path}: dataset_path is {shown(source)!r}, and there is no such folder.")
    base = (folder if local else path.parent) / Path(inside).expanduser()
    found = _below(folder) if local else []
    data_files = task_yaml.collect_texts(settings.get("data_files"))
    if data_files and (local or "/" not in source):  # else they are of a data set on the hub
        _refuse_pickles(path, data_files, source)
        found += [
            file for name in data_files if "://" not in name for file in _matching(path, base, name)
        ]
    elif inside and not local and base.is_dir():
        found += _below(base)
    _refuse_pickles(path, [file.name for file in found], source)
    return found


def _refuse_pickles(path: Path, names: list[str], source: str) -> None:
    for name in names:
        if Path(name).suffix in PICKLES or source == "pandas":
            raise InputError(
                f"{path}: the data are in {shown(name)!r}, a pickle, which can run code when read."
            )


def _matching(path: Path, base: Path, name: str) -> list[Path]:
    """The files that a name or a pattern in ``data_files`` stands for."""
    whole = Path(name).is_absolute() or not name
    files = [base / name] if whole else sorted(base.glob(name))
    if not files or not files[0].is_file():
        raise InputError(f"{path}: data_files names {name!r}, and there is no such file in {base}.")
    return [file for file in files if file.is_file()]


def _below(folder: Path) -> list[Path]:
    """All files below a folder but the hidden ones, as ``datasets`` looks for them."""
    found = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return [f for f in found if not any(p.startswith(".") for p in f.relative_to(folder).parts)]


def _module(path: Path, function: task_yaml.Function, include_path: list[Path]) -> Path:
    """The file of a function that a task names, which will be run.

    lm-eval would also take any module that Python can import, and any file by its absolute path.

    Raises:
        InputError: it is not inside lm-eval, nor in a folder that the suite names.
    """
    file = task_yaml.find_module(function)
    allowed = [folder.resolve() for folder in include_path] + [index.lm_eval_folder()]
    if not any(file.is_relative_to(folder) for folder in allowed if folder) or not file.is_file():
        raise InputError(
            f"{path}: !function {shown(function)}: the function must be in a Python file beside the "
            f"task, in a folder that score.include_path names."
        )
    return file
