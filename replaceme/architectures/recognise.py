"""The architecture of a model: measured once on a small one of its class, and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaceme.architectures.architecture import Architecture, Around, Axis, LayerKind, Norm
from replaceme.architectures.families import REFUSED, TITLES
from replaceme.architectures.per_layer import layer_count
from replaceme.architectures.small import build_small, shrunk
from replaceme.errors import InputError, OutputError, told
from replaceme.io.auto import auto_class, known_classes
from replaceme.io.files import write_atomically
from replaceme.io.models import cache_folder
from replaceme.io.quiet import silence

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

VERSION = 7  # of what is measured; older ones that were kept are measured again
Build = Callable[["PreTrainedConfig"], "PreTrainedModel"]


def architecture_of(
    config: Mapping[str, Any],
    where: str,
    folder: Path | None = None,
    trust_remote_code: bool = False,
) -> Architecture:
    """The architecture for a config (the dictionary of ``config.json``).

    Args:
        where: names the model in errors.
        folder: where the model's own code lies, for a class that transformers does not have.
        trust_remote_code: run that code.

    Raises:
        InputError: transformers has no such decoder, its weights are quantised, or its layers are not
            those of a decoder.
    """
    _refuse(config, where)
    key = _key(config)
    if (known := _recall(key)) is not None:
        return known
    from transformers import CONFIG_MAPPING, AutoConfig

    model_type = str(config.get("model_type"))
    if model_type in CONFIG_MAPPING and "auto_map" not in config:
        own: PreTrainedConfig = CONFIG_MAPPING[model_type].from_dict(dict(config))
        if not known_classes(own):
            raise InputError(
                f"{where}: {_name(config)} is no language model that transformers generates with."
            )
    elif folder is not None and trust_remote_code:
        own = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    else:
        raise InputError(
            f"{where}: unsupported architecture {_name(config)}; supported are the decoders that "
            f"transformers has, and others with their own code where trust_remote_code is set."
        )
    return _measure(own, partial(build_model, trust_remote_code=trust_remote_code), where, key)


def architecture_of_model(model: PreTrainedModel, where: str) -> Architecture:
    """The architecture of a loaded model, whose class may come from anywhere.

    Raises:
        InputError: see :func:`architecture_of`.
    """
    said = model.config.to_dict()
    _refuse(said, where)
    key = _key(said)
    return _recall(key) or _measure(model.config, type(model), where, key)


def build_model(config: PreTrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model with random weights, of the class that transformers has for a config."""
    model: PreTrainedModel = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    return model


def _refuse(config: Mapping[str, Any], where: str) -> None:
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "unknown")
        raise InputError(
            f"{where}: the weights are quantised ({method}), and a transform cannot be merged into "
            f"them exactly; use the unquantised checkpoint."
        )
    model_type = config.get("model_type")
    for (kind, key, value), reason in REFUSED.items():
        if model_type == kind and config.get(key) == value:
            raise InputError(f"{where}: {kind} with {key}={value} is not supported: {reason}.")
    if config.get("is_encoder_decoder"):
        raise InputError(
            f"{where}: unsupported architecture {_name(config)}, an encoder-decoder model; supported "
            f"are decoders."
        )


def _name(config: Mapping[str, Any]) -> str:
    classes = ", ".join(config.get("architectures") or [])
    model_type = repr(str(config.get("model_type")))
    return f"{model_type} ({classes})" if classes else model_type


def _measure(config: PreTrainedConfig, build: Build, where: str, key: str) -> Architecture:
    """Measure a small model, and keep what was found under a key."""
    from replaceme.architectures.measure import measure

    said = config.to_dict()
    title = TITLES.get(str(said.get("model_type")), str(said.get("model_type")))
    try:
        model = build_small(config, build)
    except Exception as error:
        raise InputError(
            f"{where}: a small model of {_name(said)} cannot be built: {told(error)}"
        ) from error
    try:
        with silence():
            found = name_in_files(model, measure(model, title, where))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where}: {_name(said)} does not answer to text alone: {told(error)}"
        ) from error
    if layer_count(said) != len(found.decoder_layers(model)):
        raise InputError(f"{where}: the config of {_name(said)} does not say how many layers it has.")
    if type(model).__module__.startswith("transformers."):
        _keep(key, found)
    return found


def _key(config: Mapping[str, Any]) -> str:
    """Equal for configs of models whose layers are alike but for sizes that do not count."""
    said = {key: value for key, value in shrunk(dict(config)).items() if key not in UNIMPORTANT}
    content = [VERSION, metadata.version("transformers"), said]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]


UNIMPORTANT = {
    *("_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "id2label", "label2id"),
    *("rms_norm_eps", "layer_norm_eps", "rope_theta", "rope_scaling", "rope_parameters"),
}


def _recall(key: str) -> Architecture | None:
    return _read(_kept_in(key))


def _kept_in(key: str) -> Path:
    return cache_folder() / "architectures" / f"{key}.json"


@lru_cache(maxsize=256)
def _read(file: Path) -> Architecture | None:
    try:
        said = json.loads(file.read_text("utf-8"))
        kinds = tuple(map(_read_kind, said.pop("kinds")))
        said["stored_layers"] = tuple(said["stored_layers"])
        return Architecture(**said, kinds=kinds)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _read_kind(said: dict[str, Any]) -> LayerKind:
    norms = {path: Norm(**norm) for path, norm in said["norms"].items()}
    around = {path: Around(**module) for path, module in said["around"].items()}
    tuples = {key: tuple(said[key]) for key in ("layers", "adds")}
    return LayerKind(**said | tuples | {"norms": norms, "around": around})


def _keep(key: str, found: Architecture) -> None:
    file = _kept_in(key)
    try:
        write_atomically(file, json.dumps(asdict(found)).encode())
    except OutputError:
        return
    _read.cache_clear()


def name_in_files(model: PreTrainedModel, found: Architecture) -> Architecture:
    """The architecture with the names and axes that tensors have in the files of a checkpoint."""
    import torch

    stored = _stored_tensors(model)
    prefixes = [found.layers, *_prefixes(model, found, stored)]
    kinds = []
    for kind in found.kinds:
        layer = found.decoder_layers(model)[kind.layers[0]]
        inside = {
            name.removeprefix(f"{prefix}.{kind.layers[0]}."): tensor
            for name, tensor in stored.items()
            for prefix in prefixes
            if name.startswith(f"{prefix}.{kind.layers[0]}.")
        }
        outputs = dict(kind.outputs)
        parts: dict[str, str] = {}
        for name, axis in kind.outputs.items():
            places = _places(layer.get_parameter(name), axis, inside)
            outputs |= places
            parts |= {place: name for place in places if place not in kind.outputs}
        scales = {
            place: offset
            for name, offset in kind.scales.items()
            for place in {name: None} | _places(layer.get_parameter(name), -1, inside)
        }
        kinds.append(replace(kind, outputs=outputs, stored=parts, scales=scales))
    along = {
        place: axis
        for name, axis in found.along.items()
        for place in {name, *(n for n, t in stored.items() if torch.equal(t, model.get_parameter(name)))}
    }
    return replace(found, kinds=tuple(kinds), stored_layers=tuple(prefixes[1:]), along=along)


def _stored_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """The tensors of a model by the names that they have in files, written today and before."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import revert_weight_conversion

    today: dict[str, Tensor] = revert_weight_conversion(model, model.state_dict())
    model._weight_conversions = get_model_conversion_mapping(model)
    before: dict[str, Tensor] = revert_weight_conversion(model, model.state_dict())
    del model._weight_conversions
    return before | today


def _prefixes(model: PreTrainedModel, found: Architecture, stored: dict[str, Tensor]) -> list[str]:
    """What stands for the path of the decoder layers in files, where it is something else.

    Told by values, which no two tensors share.
    """
    import torch

    layer = found.decoder_layers(model)[0]
    others = {}
    for rest, tensor in layer.named_parameters():
        for name, values in stored.items():
            prefix = name.removesuffix(f".0.{rest}")
            if prefix not in (name, found.layers) and torch.equal(values, tensor.data):
                others[prefix] = True
    others |= dict.fromkeys(_released_prefixes(model, found), True)
    return [*others]


RELEASED = (
    *("model.layers", "language_model.layers", "language_model.model.layers"),
    *("model.language_model.layers", "model.language_model.model.layers"),
    *("model.text_model.layers", "text_model.layers", "thinker.model.layers"),
)  # what the layers are called in files that releases have, by one layout or another


def _released_prefixes(model: PreTrainedModel, found: Architecture) -> Iterator[str]:
    """Those that transformers renames to the path of the decoder layers when it loads files."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    rest, _ = next(found.decoder_layers(model)[0].named_parameters())
    states = model.state_dict()
    for prefix in RELEASED:
        name, _ = rename_source_key(f"{prefix}.0.{rest}", renamings, [], model.base_model_prefix, states)
        if prefix != found.layers and name == f"{found.layers}.0.{rest}":
            yield prefix


def _places(parameter: Tensor, axis: Axis, inside: dict[str, Tensor]) -> dict[str, Axis]:
    """Tensors of a layer in files that are a parameter, or its part for one expert, perhaps turned."""
    import torch

    turned: dict[Axis, Axis] = {-1: -2, -2: -1}
    places: dict[str, Axis] = {}
    data = parameter.data
    for name, values in inside.items():
        if torch.equal(values, data):
            places[name] = axis
        elif data.ndim > 1 and torch.equal(values, data.mT):
            places[name] = turned[axis]
        for number, part in enumerate(data if data.ndim > 1 else ()):
            pattern = name.replace(f".{number}.", ".*.", 1)
            if torch.equal(values, part):
                places[pattern] = -1 if values.ndim == 1 else axis
            elif part.ndim > 1 and torch.equal(values, part.mT):
                places[pattern] = turned[axis]
    return places
