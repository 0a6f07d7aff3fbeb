"""A model whose decoder layers stay in their files, but for the one that computes and the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial, wraps
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from replaceme.architectures import Architecture
from replaceme.errors import InputError, told
from replaceme.io.auto import auto_class
from replaceme.io.contents import Stored, stored_tensors
from replaceme.io.matching import cannot_load, refuse_incomplete
from replaceme.io.quiet import silence
from replaceme.io.tensorfile import tensor_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.modeling_utils import LoadStateDictConfig

    Values = dict[str, Tensor]

HELD = 2  # layers that are in memory at once: the one that computes, and the next


def open_layers(
    folder: Path,
    architecture: Architecture,
    dtype: str,
    device: str = "cpu",
    trust_remote_code: bool = False,
    cast: str | None = None,
) -> PreTrainedModel:
    """A model as ``from_pretrained`` loads it, but that a decoder layer is read when it is called, and
    let go when another one is.

    Until then, its parameters have shapes and no memory, and NaN for values.

    Args:
        cast: a dtype that all values are rounded to, before they are in ``dtype``.

    Raises:
        InputError: transformers cannot load the folder, or layers share tensors.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with silence():
            model, form = (_build_empty(config, dtype, trust_remote_code) for _ in range(2))
            files = LayerFiles.of(folder, architecture, form, device, cast)
            missing = files.load_outside(model)
    except InputError:
        raise
    except Exception as error:
        raise cannot_load(folder, error, trust_remote_code) from error
    refuse_incomplete(f"model {folder}", tuple(missing), ())
    model.config.name_or_path = model.name_or_path = str(folder)
    Residence(architecture.decoder_layers(model), files)
    return model.eval()


def bring(layer: nn.Module) -> None:
    """Have a decoder layer's values in memory until another layer's are wanted; those of a model that is
    loaded whole are there anyway."""
    if (residence := getattr(layer, "residence", None)) is not None:
        residence.bring(layer)


def let_go(layers: nn.ModuleList) -> None:
    """Have no layer in memory, where they can be brought again."""
    if (residence := getattr(layers[0], "residence", None)) is not None:
        residence.let_go()


def bring_around(model: nn.Module, name: str) -> None:
    """Have a tensor in memory, by its path in a model, until another layer's are wanted."""
    parts = name.split(".")[:-1]
    for end in range(1, len(parts) + 1):
        bring(model.get_submodule(".".join(parts[:end])))


def bring_copy(layer: nn.Module, number: int) -> None:
    """Have a copy of a layer, whose parameters are the same objects, brought from now on as that is.

    Args:
        number: of the layer that it is a copy of.
    """
    if (residence := getattr(layer, "residence", None)) is not None:
        residence.add_copy(layer, number)


def is_resident(layer: nn.Module) -> bool:
    """Whether a decoder layer is in memory all the time."""
    return not hasattr(layer, "residence")


@dataclass(frozen=True)
class LayerFiles:
    """Reads decoder layers as transformers would load them: renamed, merged, cast.

    Attributes:
        form: the model on the meta device, through which tensors of files become those in memory.
        settings: how transformers loads it.
        inside: the tensors of each decoder layer in the files.
        outside: all others.
        cast: a dtype that values are rounded to first.
    """

    folder: Path
    architecture: Architecture
    form: PreTrainedModel
    settings: LoadStateDictConfig
    inside: list[dict[str, Stored]]
    outside: dict[str, Stored]
    cast: str | None = None

    @classmethod
    def of(
        cls,
        folder: Path,
        architecture: Architecture,
        form: PreTrainedModel,
        device: str,
        cast: str | None = None,
    ) -> LayerFiles:
        """Those of a folder; reads headers alone.

        Raises:
            InputError: a file is damaged, or layers share tensors.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.modeling_utils import LoadStateDictConfig

        settings = LoadStateDictConfig(
            device_map={"": device},
            dtype=form.dtype,
            dtype_plan=form._get_dtype_plan(form.dtype),
            weight_mapping=get_model_conversion_mapping(form),
        )
        layers = architecture.decoder_layers(form)
        _refuse_shared(form, architecture, folder)
        inside: list[dict[str, Stored]] = [{} for _ in layers]
        outside = {}
        for name, stored in stored_tensors(folder).items():
            place = architecture.split(name)
            if place is None:
                outside[name] = stored
            elif place[1] < len(layers):
                inside[place[1]][name] = stored
        return cls(folder, architecture, form, settings, inside, outside, cast)

    def load_outside(self, model: PreTrainedModel) -> set[str]:
        """Give a model that is empty everything but its decoder layers.

        Returns:
            Names of tensors outside them that no file has.
        """
        from transformers import PreTrainedModel

        info = self._convert(model, self.outside)
        prefix = f"{self.architecture.layers}."
        inside = {name for name in info.missing_keys if name.startswith(prefix)}
        for name in inside:
            model.get_parameter_or_buffer(name)._is_hf_initialized = True
        info.missing_keys -= inside
        PreTrainedModel._finalize_model_loading(model, self.settings, info)
        own = model.state_dict()
        round_values((own[name] for name in own if not name.startswith(prefix)), self.cast)
        return set(info.missing_keys)

    def read(self, layer: int) -> Values:
        """Parameters and saved buffers of a decoder layer, by name, on the device.

        Raises:
            InputError: they cannot be read, or the files lack some.
        """
        module = self.architecture.decoder_layers(self.form)[layer]
        empty = dict(_tensors(module))
        try:
            with silence():
                self._convert(self.form, self.inside[layer])
        except OSError as error:
            raise InputError(
                f"model {self.folder}: layer {layer} cannot be read: {told(error)}"
            ) from error
        found = {name: tensor.data for name, tensor in _tensors(module) if not tensor.is_meta}
        for name, tensor in empty.items():
            _put(module, name, tensor)
        round_values(found.values(), self.cast)
        saved = module.state_dict().keys()
        refuse_incomplete(f"model {self.folder}, layer {layer}", tuple(sorted(saved - found.keys())), ())
        return found

    def _convert(self, model: PreTrainedModel, tensors: dict[str, Stored]) -> Any:
        """Have transformers load some tensors into a model."""
        from transformers.core_model_loading import convert_and_load_state_dict_in_model

        slices = {name: _Slice(stored) for name, stored in tensors.items()}
        info, _ = convert_and_load_state_dict_in_model(model, slices, self.settings)
        return info


class _Slice:
    """A tensor of a file as transformers asks for it."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    def get_dtype(self) -> str:
        return self.stored.entry.dtype

    def get_shape(self) -> list[int]:
        return self.stored.entry.shape

    def __getitem__(self, _: Any) -> Tensor:
        with self.stored.file.open("rb") as data:
            return tensor_of(self.stored.entry, data)


class Residence:
    """Which decoder layer of a model is in memory: one, and the next is being read.

    A layer that is called is brought; so is one that :func:`bring` names. What was put into its
    parameters in the meantime stays. The next is the one that came next the last time.
    """

    def __init__(self, layers: nn.ModuleList, files: LayerFiles) -> None:
        self.files = files
        self._numbers = WeakKeyDictionary[Any, int]()  # of layers, and of copies as long as these live
        self._layers = [*layers]
        self._nothing: list[Values] = []
        self._here: tuple[int, Values] | None = None
        self._next: tuple[int, Future[Values]] | None = None
        self._came: dict[tuple[int | None, int], int] = {}  # two layers → the one behind them
        self._before: int | None = None
        self._reader = ThreadPoolExecutor(1, "layers")
        for number, layer in enumerate(layers):
            self._numbers[layer] = number
            self._nothing.append(self._empty(layer))
            layer.residence = self  # type: ignore[assignment]
            layer.forward = self._brought(layer)

    def _empty(self, layer: nn.Module) -> Values:
        """Take a layer off the meta device, which its parameters could not leave as the same objects."""
        device = self.files.settings.device_map[""]
        found = {name: _nothing(tensor, device) for name, tensor in _tensors(layer) if tensor.is_meta}
        own = dict(_tensors(layer))
        for name, values in found.items():
            _put(layer, name, _as(own[name], values))
        return found

    def _brought(self, layer: nn.Module) -> Any:
        forward = layer.forward

        @wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.bring(layer)
            return forward(*args, **kwargs)

        return run

    def __deepcopy__(self, _: Any) -> Residence:
        """The same: the layers of a copied model share their parameters with those of the first."""
        return self

    def add_copy(self, layer: nn.Module, number: int) -> None:
        """Bring a layer as well when a copy of it is called, see :func:`bring_copy`."""
        del layer.forward  # that of the other
        self._numbers[layer] = number
        layer.forward = self._brought(layer)

    def bring(self, layer: nn.Module) -> None:
        """Have a layer's values in memory, in the place of the one before.

        Raises:
            InputError: they cannot be read.
        """
        number = self._numbers[layer]
        if self._here and self._here[0] == number:
            self._replace(number, self._nothing[number], self._here[1])
            return
        last = self._here[0] if self._here else None
        if last is not None:
            self._came[self._before, last] = number
        self.let_go()
        values = self._take(number)
        self._replace(number, self._nothing[number], values)
        self._here, self._before = (number, values), last
        following = self._came.get((last, number), (number + 1) % len(self._layers))
        self._next = following, self._reader.submit(partial(self.files.read, following))

    def _take(self, number: int) -> Values:
        if self._next is not None:
            expected, values = self._next
            self._next = None
            found = values.result()
            if expected == number:
                return found
            del found
        return self.files.read(number)

    def let_go(self) -> None:
        """Have no layer in memory but the one that is read ahead."""
        if self._here is None:
            return
        number, values = self._here
        self._replace(number, values, self._nothing[number])
        self._here = None

    def _replace(self, number: int, old: Values, new: Values) -> None:
        """Put other values where the old ones still are."""
        for name, tensor in _tensors(self._layers[number]):
            if name in old and tensor.data_ptr() == old[name].data_ptr():
                tensor.data = new[name]


def _build_empty(config: PreTrainedConfig, dtype: str, trust_remote_code: bool) -> PreTrainedModel:
    """A model of a config on the meta device, as ``from_pretrained`` begins with it."""
    import copy

    import torch
    from transformers.utils.generic import ContextManagers

    own, number = copy.deepcopy(config), getattr(torch, dtype)
    with torch.device("meta"):
        model = auto_class(own).from_config(own, dtype=number, trust_remote_code=trust_remote_code)
    build = type(model)
    with ContextManagers(build.get_init_context(number, False, False, False)):
        empty: PreTrainedModel = build(model.config)
    return empty


def _refuse_shared(form: PreTrainedModel, architecture: Architecture, folder: Path) -> None:
    """Refuse a model with layers whose tensors are those of another module.

    Raises:
        InputError: naming one.
    """
    prefix = f"{architecture.layers}."
    for target, source in (getattr(form, "all_tied_weights_keys", None) or {}).items():
        if target.startswith(prefix) or source.startswith(prefix):
            raise InputError(
                f"model {folder}: {target} and {source} are one tensor, so that its layers cannot be "
                f"brought one by one; it must fit into memory as a whole."
            )


def round_values(tensors: Iterable[Tensor], dtype: str | None) -> None:
    """Take floating-point tensors, in place, to what they would be once cast; ``None``: as they are."""
    import torch

    if dtype is None:
        return
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(getattr(torch, dtype)))


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(), module.named_buffers())


def _nothing(like: Tensor, device: torch.device | str) -> Tensor:
    """NaN in a shape and dtype, in the memory of a single number; zero where there is no NaN."""
    import torch

    value = torch.nan if like.is_floating_point() else 0
    return torch.full((1,) * like.ndim, value, dtype=like.dtype, device=device).expand(like.shape)


def _as(tensor: Tensor, values: Tensor) -> Tensor:
    """Values as a parameter where the tensor is one."""
    from torch import nn

    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a module another parameter or buffer, by its path."""
    path, _, rest = name.rpartition(".")
    setattr(module.get_submodule(path), rest, tensor)
