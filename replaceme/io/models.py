"""A model's name → a Hugging Face folder.

A name is a hub id, a local folder, a GGUF file, or ``package:NAME/FILE.gguf`` for a file inside an
installed package. A GGUF file is converted once, into a cache folder named after its content, so that
every later step sees an ordinary folder with ``config.json`` and safetensors.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from replaceme.errors import InputError, OutputError, told
from replaceme.io.contents import CARRIED, CONFIG, INDEX, WEIGHTS, used_files, weight_files
from replaceme.io.files import write_atomically
from replaceme.io.tensorfile import FLOATS, read_header

PACKAGE_PREFIX = "package:"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
ADAPTER = "adapter_config.json"
FLOAT = "__float__"
GGUF_MAGIC = b"GGUF"


def cache_folder() -> Path:
    """Where conversions are kept: ``$REPLACEME_CACHE``, or ``replaceme`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("REPLACEME_CACHE") or Path(base) / "replaceme")


def is_hub_id(source: str) -> bool:
    """Whether a name means a model on the hub rather than something on this machine."""
    if source.startswith((PACKAGE_PREFIX, ".")) or source.endswith(".gguf"):
        return False
    try:
        return bool(HUB_ID.fullmatch(source)) and not Path(source).expanduser().exists()
    except OSError:  # longer than a path, and so than an id
        return False


def short_name(source: str) -> str:
    """A readable name for tables and files: the last part of an id or path, without quantisation."""
    name = source.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    return re.sub(r"\.(I?Q\d\w*|[FB]F?(16|32))$", "", name) or source


def local_file(source: str) -> Path:
    """The GGUF file or folder that a local name means.

    Raises:
        InputError: there is no such file, folder or package.
    """
    if source.startswith(PACKAGE_PREFIX):
        package, _, inside = source.removeprefix(PACKAGE_PREFIX).partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"model {source!r}: the package {package!r} is not installed in this environment."
            )
        path = Path(next(iter(spec.submodule_search_locations))) / inside
    else:
        path = Path(source).expanduser()
    if not path.exists():
        raise InputError(f"model {source!r}: no such file or folder, and not a hub id.")
    return path


def locate(
    source: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    token: str | None = None,
) -> Path:
    """The Hugging Face folder of a model; downloads or converts it where necessary.

    Args:
        trust_remote_code: download the model's own Python files too.
        token: of the hub; ``None``: the one that the machine has, if any.

    Raises:
        InputError: nothing there, not a checkpoint, or not reachable.
    """
    if is_hub_id(source):
        folder = _download(source, revision, trust_remote_code, token)
    else:
        path = local_file(source)
        folder = convert_gguf(path) if path.is_file() else path
    check_folder(folder, source)
    return folder


def known_folder(source: str) -> Path | None:
    """The folder of a model if it is on this machine already; nothing is downloaded or converted.

    Raises:
        InputError: a local name that means nothing, or a file that is not GGUF.
    """
    if is_hub_id(source):
        return None
    path = local_file(source)
    if not path.is_file():
        return path
    with path.open("rb") as file:
        if file.read(4) != GGUF_MAGIC:
            raise InputError(f"model {source!r}: {path} is neither a folder nor a GGUF file.")
    folder = _conversion_folder(path)
    return folder if folder.is_dir() else None


def cached_folder(source: str, revision: str | None = None) -> Path | None:
    """The folder of a hub model's config in the hub's cache, if it was downloaded before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    with suppress(HFValidationError):
        config = try_to_load_from_cache(source, "config.json", revision=revision)
        if isinstance(config, str):  # else the mark of a file that is not there
            return Path(config).parent
    return None


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder; an infinity that transformers wrote as an object is a number."""
    text = (folder / "config.json").read_text("utf-8")
    config: dict[str, Any] = json.loads(text, object_hook=_decode_float)
    return config


def _decode_float(found: dict[str, Any]) -> Any:
    return float(found[FLOAT]) if found.keys() == {FLOAT} else found


def encode_floats(value: Any) -> Any:
    """A config's value with numbers that JSON does not know as transformers writes them."""
    if isinstance(value, dict):
        return {key: encode_floats(part) for key, part in value.items()}
    if isinstance(value, list):
        return [encode_floats(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    return value


def fetch_config(source: str, revision: str | None = None) -> Path:
    """The folder of a hub model's config, which alone is downloaded.

    Raises:
        InputError: it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, CONFIG, revision=revision)).parent
    except Exception as error:
        raise InputError(f"model {source!r} cannot be had from the hub: {told(error)}") from error


def check_config(folder: Path, source: str) -> None:
    """Refuse a folder without a config that transformers can read.

    Raises:
        InputError: there is none, or it is broken.
    """
    where = f"model {source!r}"
    if not (folder / "config.json").is_file():
        raise InputError(f"{where} is not a checkpoint: {folder} has no config.json.")
    try:
        config = read_config(folder)
    except ValueError as error:
        raise InputError(f"{where}: {folder / 'config.json'} is not valid JSON ({error}).") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(f"{where}: {folder / 'config.json'} does not say its model_type.")
    _check_settings(config, f"{where}: {folder / 'config.json'}")


def check_folder(folder: Path, source: str) -> None:
    """Refuse a folder that is not a whole safetensors checkpoint; reads only headers.

    Raises:
        InputError: no or broken config, no safetensors, or a damaged weight file.
    """
    check_config(folder, source)
    where = f"model {source!r}"
    if (folder / ADAPTER).is_file() and importlib.util.find_spec("peft"):
        raise InputError(
            f"{where}: {folder / ADAPTER} lies beside the weights, and peft is installed, with which "
            f"transformers loads another model than the weights are; merge the adapter or move it away."
        )
    files = weight_files(folder)
    if not files:
        raise InputError(
            f"{where} is not a usable checkpoint: {folder} has {_instead(folder)}; needed is "
            f"{WEIGHTS}, or {INDEX} with the files that it lists."
        )
    for file in files:
        if not file.is_file():
            raise InputError(f"{where} is not whole: {file} is missing.")
        read_header(file)


def _check_settings(config: dict[str, Any], where: str) -> None:
    """Refuse settings with which transformers fails, in words that do not tell which.

    Raises:
        InputError: naming the setting.
    """
    allowed = sorted({name for name, _ in FLOATS.values()})
    for key in ("dtype", "torch_dtype"):
        if (dtype := config.get(key)) not in (None, *allowed):
            raise InputError(
                f"{where}: {key} is {dtype!r}; allowed are {', '.join(allowed)}, or leave it out."
            )
    if config.get("return_dict") is False:
        raise InputError(
            f"{where}: return_dict is false, with which the models of transformers do not run; leave it "
            f"out."
        )


def _instead(folder: Path) -> str:
    """What a folder without the weights that transformers reads holds instead."""
    if others := sorted(file.name for file in folder.glob("*.safetensors")):
        return f"{others[0]}, which transformers does not read"
    pickled = any(folder.glob("*.bin"))
    return "only pickled weights (.bin), which are never read" if pickled else "no weights"


def downloaded_files(code: bool) -> list[str]:
    """Patterns of the files to have of a hub model besides the weights that an index lists, with its
    Python files where ``code`` is wanted."""
    carried = [pattern for pattern in CARRIED if code or not pattern.endswith(".py")]
    return [CONFIG, WEIGHTS, "*.safetensors.index.json", *carried, "README.md", "LICENSE*", "NOTICE*"]


def _download(source: str, revision: str | None, code: bool, token: str | None) -> Path:
    from huggingface_hub import snapshot_download

    def fetch(patterns: list[str]) -> Path:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns, token=token))

    try:
        folder = fetch(downloaded_files(code))
        weights = weight_files(folder)
        if not all(file.is_file() for file in weights):
            fetch([str(file.relative_to(folder)) for file in weights])
        return folder
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model {source!r} cannot be had from the hub: {told(error)}") from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file, remembered in the cache by path, size and times of change, of which a program
    can set one back and not the other."""
    stat = path.stat()
    state = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
    key = hashlib.sha256(state.encode()).hexdigest()
    memo = cache_folder() / "hashes" / key
    if memo.is_file():
        return memo.read_text()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OutputError):  # a cache that cannot be written costs time, not correctness
        write_atomically(memo, digest.encode())
    return digest


def fingerprint(source: str, revision: str | None = None, folder: Path | None = None) -> str:
    """What identifies a model's weights without loading or downloading them.

    The content of a GGUF file, or of a folder's config and safetensors; for a hub id its revision, or
    its commit where ``folder`` is the snapshot that :func:`locate` found.
    """
    if is_hub_id(source):
        commit = folder.name if folder and folder.parent.name == "snapshots" else None
        return f"hub:{source}@{commit or revision or 'main'}"
    path = local_file(source)
    if path.is_file():
        return f"gguf:{file_hash(path)}"
    digest = hashlib.sha256()
    for file in [path / "config.json", *weight_files(path)]:
        if file.is_file():
            digest.update(f"{file.name}:{file_hash(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def files_fingerprint(source: str) -> str | None:
    """What identifies a local folder's other files: tokenizer, chat templates, generation settings and
    code, by content. ``None`` where :func:`fingerprint` covers them: on the hub, and in a GGUF file."""
    if is_hub_id(source) or (path := local_file(source)).is_file():
        return None
    digest = hashlib.sha256()
    for file in used_files(path):
        digest.update(f"{file.as_posix()}:{file_hash(path / file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _conversion_folder(gguf: Path) -> Path:
    return cache_folder() / "models" / f"{short_name(gguf.name)}-{file_hash(gguf)[:12]}"


def convert_gguf(gguf: Path) -> Path:
    """An ordinary bfloat16 checkpoint with the weights of a GGUF file, made once and then kept.

    Raises:
        InputError: the file is damaged, or of a family that transformers cannot convert.
        OutputError: the cache folder cannot be written.
    """
    folder = _conversion_folder(gguf)
    if (folder / "config.json").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise OutputError(
            f"the cache folder {folder.parent} cannot be written: {error.strerror}."
        ) from error
    try:
        _write_conversion(gguf, part)
        if not folder.exists():
            part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _write_conversion(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    named = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            **named,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **named)
    except Exception as error:
        raise InputError(f"the GGUF file {gguf} cannot be converted: {told(error)}") from error
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except OSError as error:
        raise OutputError(f"the converted model cannot be written to {folder}: {error}.") from error
