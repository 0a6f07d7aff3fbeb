"""Where a model computes otherwise because of how long its sequence, or its batch, is.

Rotary embeddings of some kinds take their frequencies from the longest position of a forward: a short
sequence beside a long one is not computed as it is by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

T = TypeVar("T")


@dataclass(frozen=True)
class Lengths:
    """Which lengths a model treats alike.

    Attributes:
        switches: tokens beyond which other frequencies hold (``longrope``).
        stretched: tokens beyond which each length has frequencies of its own (``dynamic``).
    """

    switches: tuple[int, ...] = ()
    stretched: int | None = None

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Lengths:
        """What a config says."""
        config = config.get_text_config()
        ropes = _ropes(config)
        switches = {rope[SWITCH] for rope in ropes if rope["rope_type"] == "longrope"}
        dynamic = any("dynamic" in rope["rope_type"] for rope in ropes)
        return cls(tuple(sorted(switches)), config.max_position_embeddings if dynamic else None)

    def regime(self, tokens: int) -> tuple[int, int]:
        """The same for two lengths that are treated alike."""
        stretched = tokens if self.stretched is not None and tokens > self.stretched else 0
        return sum(tokens > switch for switch in self.switches), stretched

    def groups(self, items: Iterable[T], tokens: Callable[[T], int]) -> list[list[T]]:
        """Items that are treated alike together, the longest first; else in their order."""

        def regime(item: T) -> tuple[int, int]:
            return self.regime(tokens(item))

        ordered = sorted(items, key=regime, reverse=True)
        return [list(group) for _, group in groupby(ordered, regime)]

    def describe(self) -> str:
        """For a sentence that begins with what depends on it."""
        points = " and ".join(map(str, [*self.switches, *filter(None, [self.stretched])]))
        return f"its rotary embedding changes beyond {points} tokens, for all requests of a batch"

    def forget(self, model: PreTrainedModel) -> None:
        """Take rotary embeddings back to what they are before any forward.

        Stretched ones keep the frequencies of the longest sequence that they have seen.
        """
        if self.stretched is None:
            return
        for module in model.modules():
            for name in [name for name, _ in module.named_buffers(recurse=False)]:
                original = getattr(module, name.replace(FREQUENCIES, f"original_{FREQUENCIES}"), None)
                if name.endswith(FREQUENCIES) and "original" not in name and original is not None:
                    module.register_buffer(name, original.to(getattr(module, name)), persistent=False)
                    seen = name.replace(FREQUENCIES, "max_seq_len_cached")
                    setattr(module, seen, module.original_max_seq_len)


SWITCH, FREQUENCIES = "original_max_position_embeddings", "inv_freq"
ALIKE = Lengths()


def _ropes(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """The rotary embeddings of a config: one for all layers, or one for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    several = [found] if "rope_type" in found else [*found.values()]
    return [rope for rope in several if isinstance(rope, dict) and "rope_type" in rope]
