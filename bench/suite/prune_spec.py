"""The ``prune`` section of a suite, and what a model may say for itself instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from bench.section import Section
from replaceme.selection import Block, merge_adjacent
from replaceme.selectors import Selection
from replaceme.settings import (
    Blocks,
    Dtype,
    Selector,
    SolverSpec,
    check_block_list,
    check_positive,
)

Items = TypeVar("Items", bound=Sequence[Any])
SHARE = re.compile(r"(\d{1,2}(?:\.\d{1,6})?)\s*%")


def _count_or_share(value: Any) -> int | str:
    """A whole number, or a share of a model's layers as ``25%``."""
    text = str(value).strip()
    if isinstance(value, int | str) and not isinstance(value, bool):
        if re.fullmatch(r"[+-]?\d{1,9}", text):
            return check_positive(int(text))
        if (match := SHARE.fullmatch(text)) and float(match[1]) > 0:
            return f"{match[1]}%"
    raise ValueError(
        f"{text[:40]!r} is no number of layers; allowed are a whole number and a share of the model's, "
        f"over 0% and under 100%, such as 25%"
    )


def share_of(share: str, num_layers: int) -> int:
    """How many of ``num_layers`` a share such as ``25%`` is.

    Rounded to the nearest whole number, a half up, and 1 at least.
    """
    exact = Fraction(share.removesuffix("%")) * num_layers / 100
    return max(1, int(exact + Fraction(1, 2)))


def _distinct_counts(layers: Items) -> Items:
    if len(set(layers)) < len(layers):
        raise ValueError("the same layer count stands twice, which would make duplicate cells")
    return layers


def _spread(solvers: Sequence[SolverSpec]) -> list[SolverSpec]:
    return [one for spec in solvers for one in spec.spread()]


def _labelled(solvers: Items) -> Items:
    labels = [spec.label for spec in solvers]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(
            f"the label {sorted(twice)[0]!r} stands twice, which would make duplicate cells; "
            f"give one of them another with 'as: NAME'"
        )
    return solvers


CountOrShare = Annotated[int | str, PlainValidator(_count_or_share)]


class Matrix(Section):
    """What is made of one model, where that differs from ``prune``."""

    layers: Annotated[tuple[CountOrShare, ...], AfterValidator(_distinct_counts)] = Field(
        (), description="numbers of layers to remove, or shares such as 25%"
    )
    blocks: Annotated[tuple[tuple[int, int], ...], AfterValidator(check_block_list)] = Field(
        (), description="blocks to remove together instead, half-open"
    )
    solvers: Annotated[
        tuple[SolverSpec, ...], AfterValidator(_spread), AfterValidator(tuple), AfterValidator(_labelled)
    ] = Field((), description="how to compensate for them")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.layers and self.blocks:
            raise ValueError("give either 'layers' or 'blocks'")
        if not (self.layers or self.blocks or self.solvers):
            raise ValueError("give 'layers', 'blocks' or 'solvers'")
        return self


class PruneSpec(Section):
    """Which variants to make: every layer count, or the given blocks, with every solver."""

    layers: Annotated[list[CountOrShare], AfterValidator(_distinct_counts)] = Field(
        default=[],
        description="numbers of layers to remove, or shares of a model's layers, such as 25%",
    )
    blocks: Blocks = Field(
        default=[],
        description="blocks to remove together instead, half-open: [[20, 28]] removes layers 20 to 27",
    )
    solvers: Annotated[list[SolverSpec], AfterValidator(_spread), AfterValidator(_labelled)] = Field(
        min_length=1, description="how to compensate for them"
    )
    selector: Selector = Field("angular", description="how the blocks are chosen")
    num_blocks: int = Field(1, gt=0, description="in how many blocks of the same size")
    calibration_dtype: Dtype | None = Field(
        None,
        description="dtype to run the model in while calibrating; null: the one it is saved in. float32 "
        "is faster than bfloat16 on a CPU without AMX",
    )
    compat: Literal["reference"] | None = Field(
        None, description="reference: do exactly as the published code does, padding and norms included"
    )
    batch_size: int = Field(8, gt=0, description="calibration sequences per forward")

    @property
    def selection(self) -> Selection:
        return Selection(self.selector, self.num_blocks)

    @property
    def given(self) -> tuple[Block, ...]:
        """The blocks to remove where they are not chosen."""
        return merge_adjacent(Block(*block) for block in self.blocks)

    @property
    def counts(self) -> list[int]:
        """Numbers of layers removed, one for each variant of a solver, once shares are resolved."""
        whole = [count for count in self.layers if isinstance(count, int)]
        return whole or [sum(block.size for block in self.given)]

    def changed(self, matrix: Matrix | None) -> PruneSpec:
        """The same with what a model says for itself.

        Raises:
            ValueError: the two do not go together.
        """
        if matrix is None:
            return self
        said: dict[str, Any] = {"solvers": list(matrix.solvers)} if matrix.solvers else {}
        if matrix.layers or matrix.blocks:
            said |= {"layers": list(matrix.layers), "blocks": list(matrix.blocks)}
        return _consistent(self.model_copy(update=said))

    def resolved(self, num_layers: int) -> PruneSpec:
        """The same with shares as numbers of the layers of a model.

        Raises:
            ValueError: two are the same number, or one cannot be divided into the blocks.
        """
        counts = [c if isinstance(c, int) else share_of(c, num_layers) for c in self.layers]
        for count, said in zip(counts, self.layers, strict=True):
            if counts.count(count) > 1:
                raise ValueError(
                    f"{said} of {num_layers} layers: {count} stands twice, which would make "
                    f"duplicate cells"
                )
        return _consistent(self.model_copy(update={"layers": counts}))

    @model_validator(mode="after")
    def _layers_or_blocks(self) -> Self:
        return _consistent(self)


Spec = TypeVar("Spec", bound=PruneSpec)


def _consistent(spec: Spec) -> Spec:
    """The same.

    Raises:
        ValueError: its layers, blocks and number of blocks do not go together.
    """
    if bool(spec.layers) == bool(spec.blocks):
        raise ValueError("give either 'layers' or 'blocks'")
    if spec.blocks and spec.num_blocks > 1:
        raise ValueError("'num_blocks' belongs to 'layers'; list several blocks instead")
    for count in spec.layers:
        if isinstance(count, int) and count % spec.num_blocks:
            raise ValueError(
                f"{count} layers cannot be removed in {spec.num_blocks} blocks of the same size; "
                f"allowed are multiples of {spec.num_blocks}"
            )
    return spec
