"""What a decoder layer is: measured on the model, with the few things that cannot be."""

from replaceme.architectures.architecture import Architecture, Around, Axis, LayerKind, Norm
from replaceme.architectures.families import TITLES
from replaceme.architectures.per_layer import (
    EXTRA_LAYERS,
    OUTPUT_MATRICES,
    check_present,
    is_numbered,
    layer_count,
    pruned_config,
)
from replaceme.architectures.recognise import (
    Build,
    architecture_of,
    architecture_of_model,
    build_model,
)
from replaceme.architectures.small import build_small

__all__ = [
    "EXTRA_LAYERS",
    "OUTPUT_MATRICES",
    "TITLES",
    "Architecture",
    "Around",
    "Axis",
    "Build",
    "LayerKind",
    "Norm",
    "architecture_of",
    "architecture_of_model",
    "build_model",
    "build_small",
    "check_present",
    "is_numbered",
    "layer_count",
    "pruned_config",
]
