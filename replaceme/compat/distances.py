"""The distances that the published commands choose by: measured, written, and read again."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from replaceme.errors import InputError
from replaceme.io.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from replaceme.calibration import Batches
    from replaceme.compat.config import SeedConfig

DISTANCES = Path("distances.json")
TABLE = Path("layer_distances.csv")


def read_distances(config: SeedConfig, layers: int, say: Callable[[str], None]) -> list[float] | None:
    """The list in the file, one for each block of ``layers_to_skip`` layers; ``None``: to be measured.

    Raises:
        InputError: the file holds something else than a list of numbers.
    """
    path = config.distances_file
    if path is None or not path.exists():
        return None
    try:
        distances = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        distances = None
    count = layers - config.layers_to_skip
    if not isinstance(distances, list) or not all(_is_number(d) for d in distances):
        raise InputError(
            f"distances_path: {path} is not a JSON list of the {count} distances of blocks of "
            f"{config.layers_to_skip} layers in a model of {layers}; delete it to compute them."
        )
    if len(distances) == count:
        say(f"the distances are read from {path}; delete it to compute them anew.")
        return distances
    say(
        f"{path} holds {len(distances)} distances, and {count} are those of blocks of "
        f"{config.layers_to_skip} layers in a model of {layers}; they are computed, and it is replaced."
    )
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def measure_distances(config: SeedConfig, model: PreTrainedModel, batches: Batches) -> list[float]:
    """Mean angular distance over each block of ``layers_to_skip`` layers, from layer 1 on; written to
    the file as well."""
    from replaceme.compat.reference import ReferenceBatches
    from replaceme.decoder import Decoder
    from replaceme.distances import layer_distances

    compat = config.compat is not None
    decoder = Decoder.of(model, after_norm=compat)
    alike = replace(batches, lengths=decoder.lengths)
    at_last = layer_distances(decoder, ReferenceBatches.of(batches) if compat else alike)
    distances = at_last.diagonal(config.layers_to_skip).tolist()
    write_atomically(config.distances_file or DISTANCES, json.dumps(distances).encode() + b"\n")
    return distances


def write_table(distances: list[float], size: int) -> None:
    """The distances with their blocks, as the published analysis writes them."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["block_start", "block_end", "average_distance"])
    table.writerows([start, start + size, d] for start, d in enumerate(distances, start=1))
    write_atomically(TABLE, text.getvalue().encode())
