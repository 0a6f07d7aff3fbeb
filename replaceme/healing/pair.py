"""An intact model and a pruned one that share what is the same in both."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from replaceme.decoder import Decoder
from replaceme.edit import Edit, apply, list_changed
from replaceme.errors import InputError
from replaceme.io import layers as layer_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Pair:
    """A teacher and its student, each in evaluation mode.

    A parameter with the same values in both is one object, so that the student takes no more memory than
    what differs, and what both compute alike can be told.

    Attributes:
        teacher: the intact model.
        student: the pruned one.
        kept: the number in the teacher of each layer of the student.
    """

    teacher: Decoder
    student: Decoder
    kept: tuple[int, ...]

    @classmethod
    def of_edit(cls, teacher: Decoder, edit: Edit) -> Pair:
        """The student that an edit makes of a model, which itself stays as it is.

        Where the model's layers are brought one by one, so are the student's.
        """
        model, architecture = teacher.model, teacher.architecture
        named = dict(model.named_parameters(remove_duplicate=False))
        copies: dict[int, Any] = {id(parameter): parameter for parameter in named.values()}
        for name in {*edit.outside, *architecture.along} & named.keys():
            copies.pop(id(named[name]), None)
        if not teacher.is_resident:
            copies |= {id(buffer): buffer for buffer in teacher.layers.buffers()}
        for layer, tensor, parameter in list_changed(model, architecture, edit):
            if layer in edit.transforms:
                teacher.layer(layer)
            values = edit.changed(architecture, layer, tensor, parameter.data)
            copies[id(parameter)] = nn.Parameter(values, parameter.requires_grad)
        student: PreTrainedModel = copy.deepcopy(model, copies)
        apply(student, architecture, Edit(edit.blocks, outside=edit.outside))
        pair = cls._of(teacher, student, edit.kept(len(teacher.layers)))
        for number, layer_of_student in zip(pair.kept, pair.student.layers, strict=True):
            layer_files.bring_copy(layer_of_student, number)
        return pair

    @classmethod
    def of_models(cls, teacher: Decoder, student: PreTrainedModel, edit: Edit) -> Pair:
        """A pruned model that was loaded by itself, and gives up what the teacher has as well.

        Args:
            edit: the blocks that it lacks.

        Raises:
            InputError: it has another number of layers, or none of its layers is the teacher's.
        """
        kept = edit.kept(len(teacher.layers))
        pair = cls._of(teacher, student, kept)
        if len(pair.student.layers) != len(kept):
            raise InputError(
                f"the checkpoint has {len(pair.student.layers)} layers, and of the teacher's "
                f"{len(teacher.layers)} would {len(kept)} be left: it was not pruned from this teacher."
            )
        if not sum(_share(*modules) for modules in pair._matching()):
            raise InputError(
                "no tensor of the checkpoint's layers is one of the teacher: it was not pruned from "
                "this teacher, or all of it was trained since."
            )
        _share(teacher.model, student)
        return pair

    @classmethod
    def _of(cls, teacher: Decoder, student: PreTrainedModel, kept: list[int]) -> Pair:
        architecture = teacher.architecture.keeping(kept)
        return cls(teacher, Decoder(student, architecture, room=teacher.room), tuple(kept))

    def extend(self, start: Edit, new: Edit) -> Edit:
        """The edit that the student came from, and new values on top of it.

        Where a new value replaces one that a transform was merged into, the others that it was merged
        into are taken from the student.
        """
        weights, transforms = dict(start.weights), dict(start.transforms)
        for layer in start.transforms:
            kind = self.teacher.kind(layer)
            if not any(kind.merges(tensor) for number, tensor in new.weights if number == layer):
                continue
            del transforms[layer]
            own = self.student.layers[self.kept.index(layer)]
            weights |= {
                (layer, tensor): parameter.data
                for tensor, parameter in own.named_parameters()
                if kind.merges(tensor)
            }
        return Edit(start.blocks, transforms, weights | new.weights, start.outside | new.outside)

    @property
    def gaps(self) -> list[int]:
        """The student's layers behind which layers were removed."""
        following = [*self.kept[1:], len(self.teacher.layers)]
        return [i for i, (a, b) in enumerate(zip(self.kept, following, strict=True)) if b != a + 1]

    @property
    def shared(self) -> int:
        """How many layers both begin with that are the same, parameter by parameter."""
        if not self._enter_alike():
            return 0
        pairs = zip(self.kept, self._matching(), strict=True)
        alike = (number == i and _is_same(*modules) for i, (number, modules) in enumerate(pairs))
        return sum(1 for _ in takewhile(bool, alike))

    def _matching(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Each layer of the student behind the teacher's that it was."""
        for number, layer in zip(self.kept, self.student.layers, strict=True):
            yield self.teacher.layers[number], layer

    def _enter_alike(self) -> bool:
        """Whether all that is neither in nor behind the layers is the same."""
        behind = {id(p) for decoder in (self.teacher, self.student) for p in _behind(decoder)}
        inside = f"{self.teacher.architecture.layers}."
        one, two = (
            {
                name: id(parameter)
                for name, parameter in decoder.model.named_parameters()
                if not name.startswith(inside) and id(parameter) not in behind
            }
            for decoder in (self.teacher, self.student)
        )
        return one == two


def _behind(decoder: Decoder) -> Iterator[nn.Parameter]:
    """Parameters of the final norm and of a head that is not tied to the embeddings."""
    if decoder.architecture.final_norm:
        yield from decoder.model.get_submodule(decoder.architecture.final_norm).parameters()
    if head := untied_head(decoder.model):
        yield from decoder.model.get_submodule(head).parameters()


def untied_head(model: PreTrainedModel) -> str | None:
    """Path of the output matrix where it is a tensor of its own."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is embeddings.weight:
        return None
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    return names[head]


def _is_same(one: nn.Module, two: nn.Module) -> bool:
    mine, others = dict(one.named_parameters()), dict(two.named_parameters())
    return mine.keys() == others.keys() and all(mine[name] is others[name] for name in mine)


def _share(teacher: nn.Module, student: nn.Module) -> int:
    """Have a module take over parameters of another that are called alike and have the same values;
    returns how many matrices that were."""
    theirs = dict(teacher.named_parameters(remove_duplicate=False))
    count = 0
    for name, parameter in [*student.named_parameters(remove_duplicate=False)]:
        if (other := theirs.get(name)) is not None and _is_equal(parameter, other):
            put_parameter(student, name, other)
            count += other.ndim > 1
    return count


def _is_equal(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and one.dtype == two.dtype and torch.equal(one, two)


def put_parameter(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Give a module another parameter, by its path."""
    path, _, rest = name.rpartition(".")
    setattr(module.get_submodule(path), rest, parameter)
