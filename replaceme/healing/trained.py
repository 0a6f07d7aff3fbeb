"""The parameters of a student that are trained, and the values that its tensors have from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from replaceme.errors import InputError
from replaceme.healing.pair import put_parameter
from replaceme.io.layers import bring_around

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from replaceme.healing.pair import Pair
    from replaceme.healing.settings import Training

ADAPTER = "default"  # peft's own name for the only one
ALPHA = 2  # times the rank, as published


@dataclass(frozen=True)
class Trained:
    """What gradients go to.

    Attributes:
        model: the student.
        parameters: by their names in it, float32 or wider.
        before: the tensors that get other values, with those that they had.
    """

    model: PreTrainedModel
    parameters: dict[str, nn.Parameter]
    before: dict[str, Tensor]

    @classmethod
    def whole(cls, model: PreTrainedModel, names: list[str]) -> Trained:
        """Tensors themselves, each of which becomes the student's own."""
        model.requires_grad_(False)
        before = {name: _read(model, name) for name in names}
        for name, values in before.items():
            put_parameter(model, name, nn.Parameter(values.to(_exact(values.dtype), copy=True)))
        return cls(model, {name: model.get_parameter(name) for name in names}, before)

    @classmethod
    def low_rank(
        cls,
        model: PreTrainedModel,
        names: list[str],
        whole: list[str],
        *,
        rank: int,
        dropout: float,
        seed: int,
    ) -> Trained:
        """Low-rank changes of matrices by peft, and some tensors themselves.

        Args:
            names: of the matrices.
            whole: of the others.
            dropout: share of what enters the changes that is left out, where the model is in training.
            seed: of where the changes start; they are 0 there.

        Raises:
            InputError: peft is not installed.
        """
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise InputError(
                "train: lora needs peft, which is not installed: pip install 'replaceme[heal]'."
            ) from None
        paths = "|".join(re.escape(name.removesuffix(".weight")) for name in names)
        config = LoraConfig(
            r=rank, lora_alpha=ALPHA * rank, lora_dropout=dropout, target_modules=f"({paths})"
        )
        before = {name: model.get_parameter(name).detach() for name in names}
        own = cls.whole(model, whole)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name or name in own.parameters)
        found = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for parameter in found.values():
            parameter.data = parameter.data.to(_exact(parameter.dtype))
        return cls(model, found, before | own.before)

    @property
    def numbers(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def values(self) -> dict[str, Tensor]:
        """Tensor → its values, with what is of low rank merged in, exact."""
        return {name: self._values(name) for name in self.before}

    def _values(self, name: str) -> Tensor:
        if name in self.parameters:
            return self.parameters[name].detach().clone()
        module: Any = self.model.get_submodule(name.removesuffix(".weight"))
        weight: Tensor = module.get_base_layer().weight
        with torch.no_grad():
            change: Tensor = module.get_delta_weight(ADAPTER)
        return weight.detach().to(_exact(weight.dtype)) + change.to(weight.device)

    def settle(self, values: dict[str, Tensor]) -> None:
        """Make the student an ordinary model again, with some values in its dtype."""
        for name in values:
            path = name.removesuffix(".weight")
            module: Any = self.model.get_submodule(path) if name.endswith(".weight") else None
            if hasattr(module, "get_base_layer"):
                parent, _, child = path.rpartition(".")
                setattr(self.model.get_submodule(parent), child, module.get_base_layer())
            put_parameter(self.model, name, nn.Parameter(values[name].to(self.model.dtype)))
        self.model.requires_grad_(False)


def open_parameters(pair: Pair, training: Training, names: list[str]) -> Trained:
    """Have gradients go to tensors of the student, or to low-rank changes of them, and nowhere else.

    Args:
        names: what :func:`replaceme.healing.parts.choose` names.

    Raises:
        InputError: low-rank changes are wanted, and peft is not installed.
    """
    pair.teacher.model.requires_grad_(False)
    model = pair.student.model
    if training.train != "lora":
        return Trained.whole(model, names)
    matrices = [name for name in names if model.get_parameter(name).ndim == 2]
    others = [name for name in names if name not in matrices]
    said = training.parameters()
    rank, dropout = said["rank"], said.get("dropout", 0.0)
    return Trained.low_rank(model, matrices, others, rank=rank, dropout=dropout, seed=training.seed)


def _read(model: PreTrainedModel, name: str) -> Tensor:
    bring_around(model, name)
    parameter: nn.Parameter = model.get_parameter(name)
    return parameter.detach()


def _exact(dtype: torch.dtype) -> torch.dtype:
    """The dtype to train in: float32, or a wider one."""
    return torch.promote_types(dtype, torch.float32)
