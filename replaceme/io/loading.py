"""A Hugging Face folder → a loaded model, on which device and in which dtype."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaceme.errors import InputError, NoMemoryError
from replaceme.io.auto import auto_class
from replaceme.io.contents import weight_files
from replaceme.io.matching import cannot_load, refuse_incomplete
from replaceme.io.models import read_config
from replaceme.io.tensorfile import FLOATS, read_header

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

# bitsandbytes' own path for CPUs with AVX-512 rounds its scales to bfloat16, and fails on matrices whose
# rows are no multiple of 64; without it the weights are dequantised and multiplied, as everywhere else.
FAST_ON_SOME = "support_avx512bf16_for_cpu"

LARGE = 64 << 20  # bytes of weights; below, freeing memory takes longer than it is worth

# Files that hold a tokenizer's vocabulary.
VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json")


def load(
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    four_bits: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a checkpoint folder, in evaluation mode.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``; ``None`` takes the checkpoint's own.
        device: a torch device, or ``auto`` to spread the layers over all GPUs.
        four_bits: quantise the matrices of the layers; ``dtype`` is that of everything else.

    Raises:
        InputError: transformers cannot load the folder, or not without code that comes with it, or not
            into the memory of the device, or it would fill a part of it with random numbers.
    """
    from transformers import AutoConfig

    tokenizer = load_tokenizer(folder, trust_remote_code)
    if sum(file.stat().st_size for file in weight_files(folder)) >= LARGE:
        gc.collect()  # a model that nobody uses any more lives on in circles of references, all of it
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with without_progress_bars():
            model, found = auto_class(config).from_pretrained(
                folder,
                dtype=dtype or "auto",
                device_map=device if device != "cpu" or four_bits else None,
                quantization_config=_nf4() if four_bits else None,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:
        raise cannot_load(folder, error, trust_remote_code) from error
    refuse_incomplete(f"model {folder}", tuple(found["missing_keys"]), ())
    if any(parameter.is_meta for parameter in model.parameters()):
        raise InputError(
            f"model {folder} does not fit into the memory of device {device!r}: a part of it would stay "
            f"outside; take more or larger GPUs, a smaller dtype, or device 'cpu'."
        )
    if four_bits:
        del model.config.quantization_config  # the config stays that of the checkpoint
        for module in model.modules():
            if hasattr(module, FAST_ON_SOME):
                setattr(module, FAST_ON_SOME, False)
    refuse_unknown_tokens(model)
    return model.eval(), tokenizer


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Have transformers draw none, over what a command prints itself."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder.

    Raises:
        InputError: there is none, or transformers cannot load it, or not without code that comes with
            it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        if not any(file for pattern in VOCABULARIES for file in folder.glob(pattern)):
            raise InputError(
                f"model {folder} has no tokenizer: no tokenizer.json, and no vocabulary of another "
                f"kind; copy the tokenizer of the model that it was made from."
            ) from error
        for file in sorted(folder.glob("*token*.json")):
            try:
                json.loads(file.read_bytes())
            except ValueError as broken:
                raise InputError(f"model {folder}: {file} is not valid JSON ({broken}).") from error
        raise cannot_load(folder, error, trust_remote_code, "the tokenizer of ") from error


def refuse_unknown_tokens(model: PreTrainedModel) -> None:
    """Have a model refuse tokens that its embedding lacks.

    Its tokenizer may know some that never come. torch itself names no token, and on a GPU leaves the
    process without use of it.
    """

    def check(module: Any, inputs: tuple[Any, ...]) -> None:
        rows = module.weight.shape[0]
        if inputs and (largest := int(inputs[0].max())) >= rows:
            raise InputError(
                f"a text holds token {largest} of the tokenizer, but the model has {rows} (0 to "
                f"{rows - 1}): the tokenizer in {model.name_or_path} is not that of its weights."
            )

    model.get_input_embeddings().register_forward_pre_hook(check)


def has_four_bits() -> bool:
    """Whether models can be loaded in 4 bits: bitsandbytes is installed."""
    from transformers.utils import is_bitsandbytes_available

    return bool(is_bitsandbytes_available())


def left_in_half_precision(model: PreTrainedModel) -> list[str]:
    """Names, with ``*`` for numbers, of the layers' matrices that a 4-bit model holds as they are.

    transformers quantises modules of the class ``nn.Linear`` alone: not those of Falcon, which are of a
    class of its own, nor experts that are one tensor.
    """
    return sorted(
        {
            re.sub(r"\.\d+\.", ".*.", name)
            for name, parameter in model.named_parameters()
            if re.search(r"\.\d+\.", name) and parameter.dim() > 1 and "norm" not in name
            if parameter.is_floating_point()
        }
    )


def _nf4() -> BitsAndBytesConfig:
    """The settings of the published code."""
    import logging

    from transformers import BitsAndBytesConfig

    # It warns that an optional kernel is not there, which FAST_ON_SOME turns off anyway.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="bfloat16",
    )


@contextmanager
def enough_memory() -> Iterator[None]:
    """Where a device's memory runs out, say what helps.

    Raises:
        NoMemoryError: instead of ``torch.OutOfMemoryError``.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NoMemoryError(
            f"the memory of the device is not enough; choose a smaller batch_size, or spread the model "
            f"over all GPUs with device 'auto' ({str(error).splitlines()[0]})"
        ) from error


def default_device() -> str:
    """``cuda`` where there is a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_memory(device: str) -> int:
    """Bytes of memory of a device; of all GPUs for ``auto``, and of the machine where there is none."""
    import psutil
    import torch

    if device == "auto" and torch.cuda.is_available():
        found = range(torch.cuda.device_count())
        return sum(torch.cuda.get_device_properties(i).total_memory for i in found)
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def declared_dtype(config: dict[str, Any]) -> str | None:
    """The dtype that a config declares for its weights, which need not be that of the files."""
    return config.get("dtype") or config.get("torch_dtype")


def checkpoint_dtype(folder: Path) -> str:
    """The dtype that transformers loads a checkpoint in unless told otherwise.

    That is what its config declares, else that of the first floating-point tensor in its files.
    """
    return declared_dtype(read_config(folder)) or next(_float_dtypes(folder), "float32")


def is_cast(folder: Path, dtype: str | None) -> bool:
    """Whether a checkpoint whose floating-point tensors are to be ``dtype`` is another than this."""
    if dtype is None:
        return False
    return declared_dtype(read_config(folder)) != dtype or {*_float_dtypes(folder)} != {dtype}


def _float_dtypes(folder: Path) -> Iterator[str]:
    """Of the floating-point tensors, in the order in which safetensors lists them."""
    for file in weight_files(folder):
        for entry in sorted(read_header(file)[0], key=lambda entry: entry.name):
            if entry.dtype in FLOATS:
                yield FLOATS[entry.dtype][0]


def fast_dtype(dtype: str, device: str) -> str:
    """The dtype to compute in with weights of ``dtype``: float32 on a CPU without AMX, which runs half
    precision at half the speed, else the same."""
    import torch

    slow = device == "cpu" and not torch.cpu._is_amx_tile_supported()
    return "float32" if slow else dtype


def training_dtype(dtype: str, device: str) -> str:
    """The dtype to train in with weights of ``dtype``: the same on a GPU and, of bfloat16, on a CPU that
    multiplies it, elsewhere float32."""
    import torch

    cpu = torch.cpu
    multiplies = cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    as_it_is = device != "cpu" or (dtype == "bfloat16" and multiplies)
    return dtype if as_it_is else "float32"
