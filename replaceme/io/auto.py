"""Which of transformers' classes a checkpoint is loaded with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

AutoClass = Literal["AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"]
TEXT: AutoClass = "AutoModelForCausalLM"


def auto_class(config: PreTrainedConfig) -> Any:
    """``AutoModelForCausalLM``, or its like for models that read images or sound besides text.

    That whose class the checkpoint names, where several know the config; the language model of such a
    checkpoint alone would leave the rest of it behind.
    """
    import transformers

    known = known_classes(config)
    named = [auto for auto, name in known.items() if name in (config.architectures or [])]
    return getattr(transformers, [*named, *known, TEXT][0])


def known_classes(config: PreTrainedConfig) -> dict[AutoClass, str]:
    """Of the auto classes that know a config, the class that each makes of it."""
    from transformers.models.auto import modeling_auto

    mappings: dict[AutoClass, Any] = {
        "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        "AutoModelForImageTextToText": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        "AutoModelForMultimodalLM": modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING,
    }
    return {
        auto: mapping[type(config)].__name__
        for auto, mapping in mappings.items()
        if type(config) in mapping
    }
