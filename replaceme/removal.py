"""Whether a model without some layers is the same in memory and loaded again, tried on a small one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replaceme.architectures import Architecture, build_small, pruned_config
from replaceme.edit import Edit, apply
from replaceme.errors import InputError, told
from replaceme.io.quiet import silence
from replaceme.selection import Block

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

TOKENS = 12
OTHERWISE = (
    "it is another model when it is loaded again: what a layer is depends on its number, or on the "
    "number of all, in a way that the config cannot say; other layers, or fewer, may do."
)
CACHED = 5e-3  # of the largest logit: some classes compute one way with a cache and another without
TOLERANCE = 1e-4  # of logits about 1


def check_removal(
    config: PreTrainedConfig,
    build: Callable[[PreTrainedConfig], PreTrainedModel],
    architecture: Architecture,
    blocks: tuple[Block, ...],
    where: str,
) -> None:
    """Refuse blocks without which a config cannot say what its layers are.

    Args:
        config: of the intact model.
        build: makes a model of a config.
        where: names the model in errors.

    Raises:
        InputError: a small model without these layers computes something else, or nothing, when it is
            loaded again.
    """
    cut = ", ".join(f"{block.start}:{block.end}" for block in blocks)
    try:
        small = build_small(config, build)
        caches = takes_cache(small)
        with silence():
            again = prune_and_reload(small, architecture, blocks)
        one, two = (_logits(model) for model in (small, again))
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        raise InputError(f"{where}: without the layers {cut} {OTHERWISE}") from error
    except Exception as error:
        raise InputError(
            f"{where}: without the layers {cut} it cannot be loaded again: {told(error)}"
        ) from error
    if not (one - two).abs().max() <= TOLERANCE * max(1.0, float(one.abs().max())):
        raise InputError(f"{where}: without the layers {cut} {OTHERWISE}")
    if caches and not takes_cache(again):
        raise InputError(
            f"{where}: without the layers {cut} it does not generate: none stays of a kind that its "
            f"cache needs; other layers, or fewer, may do."
        )


def takes_cache(model: PreTrainedModel) -> bool:
    """Whether a model says the same of its last tokens with a cache of those before."""
    import torch

    ids = torch.arange(TOKENS)[None]
    behind = TOKENS - TOKENS // 3
    wanted = _logits(model)[:, behind:]
    try:
        with torch.no_grad():
            cache = model(input_ids=ids[:, :behind], use_cache=True).past_key_values
            rest = model(input_ids=ids[:, behind:], past_key_values=cache, use_cache=True).logits
    except Exception:  # whatever the classes raise where they cannot
        return False
    return bool((rest - wanted).abs().max() < CACHED * wanted.abs().max())


def prune_and_reload(
    model: PreTrainedModel, architecture: Architecture, blocks: tuple[Block, ...]
) -> PreTrainedModel:
    """Prune a model in memory; returns one built from the pruned config, with the same weights."""
    edit = Edit(blocks)
    kept = edit.kept(len(architecture.decoder_layers(model)))
    said = pruned_config(model.config.to_dict(), kept)
    apply(model, architecture, edit)
    again = type(model)(type(model.config).from_dict(said)).float().eval()
    again.load_state_dict(model.state_dict())
    return again


def _logits(model: PreTrainedModel) -> Tensor:
    import torch

    inputs: dict[str, Any] = {"input_ids": torch.arange(TOKENS)[None], "use_cache": False}
    with torch.no_grad():
        logits: Tensor = model(**inputs).logits
    return logits
