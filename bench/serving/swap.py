"""What vLLM loads into each of its worker processes to put the weights of another checkpoint in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.model_executor.model_loader.reload.layerwise import (
    finalize_layerwise_reload,
    get_layerwise_info,
    initialize_layerwise_reload,
)


class Weights:
    """A vLLM worker extension; its methods are called on every worker."""

    model_runner: Any

    def swap(self, before: str, after: str) -> int:
        """Put the weights of a checkpoint in the place of another one's, of the same shape.

        vLLM's own loading code maps their names, fuses them and brings them into the layout of its
        kernels, module by module; modules whose tensors are the same in both keep what they have.

        Args:
            before: folder of the checkpoint whose weights the engine has.
            after: folder of the one that it is to have.

        Returns:
            Number of tensors that were put in.

        Raises:
            ValueError: vLLM left out one of them, or loads the model in a way that this cannot repeat.
        """
        model = self.model_runner.get_model()
        changed = list_different(Path(before), Path(after))
        if not changed:
            return 0
        initialize_layerwise_reload(model)
        names = list(changed)
        loaded = model.load_weights(_read(Path(after), names))
        if _is_partly_loaded(model):  # a module that several tensors share, as experts do
            rest = sorted(_files(Path(after)).keys() - changed)
            loaded = {*loaded, *model.load_weights(_read(Path(after), rest))}
            names += rest
        finalize_layerwise_reload(model, self.model_runner.vllm_config.model_config)
        if len(loaded) == 0:
            raise ValueError(f"vLLM took none of {len(names)} tensors")
        self.model_runner.reset_encoder_cache()
        return len(names)

    def watch_logits(self) -> None:
        """Count from now on how many logits are NaN; greedy choice among them is token 0, in silence."""
        model = self.model_runner.get_model()
        compute = model.compute_logits
        self.nan: Tensor | int = 0

        def counted(*arguments: Any, **options: Any) -> Any:
            logits = compute(*arguments, **options)
            if logits is not None:
                self.nan = self.nan + logits.isnan().sum()
            return logits

        model.compute_logits = counted

    def count_nan(self) -> int:
        """How many logits were NaN since this was asked last."""
        count, self.nan = int(self.nan), 0
        return count

    def random_state(self) -> list[Tensor]:
        """The state of the generators that the sampler draws from."""
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if cuda else [])]

    def restore_random_state(self, states: list[Tensor]) -> None:
        """Take the generators back to a state."""
        torch.set_rng_state(states[0])
        if states[1:]:
            torch.cuda.set_rng_state(states[1])


def list_different(before: Path, after: Path) -> set[str]:
    """The tensors of a checkpoint folder that are not bit for bit those of another one.

    Raises:
        ValueError: the folders hold tensors of other names.
    """
    ours, theirs = _files(after), _files(before)
    if ours.keys() != theirs.keys():
        raise ValueError("the checkpoints have tensors of different names")
    different = set()
    for name, file in ours.items():
        new, old = file.get_tensor(name), theirs[name].get_tensor(name)
        alike = new.dtype == old.dtype and new.shape == old.shape
        if not alike or not torch.equal(_bits(new), _bits(old)):
            different.add(name)
    return different


def _bits(tensor: Tensor) -> Tensor:
    """A tensor as bytes, so that NaN equals itself and 0 is not -0."""
    return tensor.reshape(-1).view(torch.uint8)


def _files(folder: Path) -> dict[str, Any]:
    """The open file that holds each tensor of a checkpoint."""
    files: list[Any] = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118


def _read(folder: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    files = _files(folder)
    for name in sorted(names):
        yield name, files[name].get_tensor(name)


def _is_partly_loaded(model: torch.nn.Module) -> bool:
    """Whether a module has got some of its weights and waits for others."""
    waiting = (get_layerwise_info(module) for module in model.modules())
    return any(
        info.can_load() and 0 < info.load_numel < (info.load_numel_total or 0) for info in waiting
    )
