"""Which tensors of a pruned model are trained, by the names of the parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from replaceme.errors import InputError
from replaceme.healing.pair import Pair, untied_head
from replaceme.healing.settings import LAST

if TYPE_CHECKING:
    from replaceme.decoder import Decoder
    from replaceme.healing.settings import Training


def choose(pair: Pair, training: Training) -> list[str]:
    """Names in the student of the tensors that are trained; of ``lora``, of the matrices that it
    changes.

    Raises:
        InputError: nothing was removed, or the part cannot be told in this family.
    """
    if not pair.gaps:
        raise InputError("the checkpoint lacks no layer of the teacher: there is nothing to heal.")
    names = PARTS[training.train](pair)
    if training.norms:
        names += _norms(pair)
    floating = dict(pair.student.model.named_parameters())
    return [name for name in dict.fromkeys(names) if floating[name].is_floating_point()]


def _projection(pair: Pair) -> list[str]:
    return [name for layer in pair.gaps for name in _outputs(pair.student, layer)]


def _mlp(pair: Pair) -> list[str]:
    return [name for layer in _after(pair) for name in _outputs(pair.student, layer)]


def _matrices(pair: Pair) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    decoder = pair.student
    return [
        f"{_path(decoder, layer)}.{name}.weight"
        for layer in _after(pair)
        for name, module in decoder.layers[layer].named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]


def _tail(pair: Pair) -> list[str]:
    decoder = pair.student
    layers = range(max(0, len(decoder.layers) - LAST), len(decoder.layers))
    return [name for layer in layers for name in _inside(decoder, layer)] + _head(decoder)


def _all(pair: Pair) -> list[str]:
    decoder = pair.student
    inside = [name for layer in _after(pair) for name in _inside(decoder, layer)]
    return inside + _final_norm(decoder) + _head(decoder)


def _norms(pair: Pair) -> list[str]:
    """Of the layers from the first gap on, and the final one."""
    decoder = pair.student
    inside = [
        name
        for layer in _after(pair)
        for name in _inside(decoder, layer)
        if _is_norm(decoder.model.get_submodule(name.rpartition(".")[0]))
    ]
    return inside + _final_norm(decoder)


PARTS: dict[str, Callable[[Pair], list[str]]] = {
    "projection": _projection,
    "mlp": _mlp,
    "lora": _matrices,
    "tail": _tail,
    "all": _all,
}


def _after(pair: Pair) -> range:
    """The student's layers from the one before the first gap on."""
    return range(pair.gaps[0], len(pair.student.layers))


def _path(decoder: Decoder, layer: int) -> str:
    return f"{decoder.architecture.layers}.{layer}"


def _inside(decoder: Decoder, layer: int) -> list[str]:
    """All parameters of a layer."""
    return [f"{_path(decoder, layer)}.{name}" for name, _ in decoder.layers[layer].named_parameters()]


def _final_norm(decoder: Decoder) -> list[str]:
    path = decoder.architecture.final_norm
    if path is None:
        return []
    return [f"{path}.{name}" for name, _ in decoder.model.get_submodule(path).named_parameters()]


def _head(decoder: Decoder) -> list[str]:
    """Of a head that is not tied to the embeddings, which come before everything."""
    path = untied_head(decoder.model)
    if path is None:
        return []
    return [f"{path}.{name}" for name, _ in decoder.model.get_submodule(path).named_parameters()]


def _is_norm(module: nn.Module) -> bool:
    parameters = [*module.parameters()]
    return all(parameter.ndim == 1 for parameter in parameters)


def _outputs(decoder: Decoder, layer: int) -> list[str]:
    """Tensors of the projections that end a layer's last branch.

    Raises:
        InputError: it does not end in matrices.
    """
    kind = decoder.kind(layer)
    inside = [name for name, _ in decoder.layers[layer].named_parameters()]
    ends = [name for name in inside if kind.merge_axis(name) is not None]
    ends = ends or [name for name in inside if name.rpartition(".")[0] == kind.projection]
    if not ends:
        raise InputError(
            f"layer {layer} of {decoder.architecture.title} does not end in a projection that could be "
            f"trained by itself; train lora, tail or all."
        )
    return [f"{_path(decoder, layer)}.{name}" for name in ends]
