"""What is used of trl. Its import turns down vLLM's log in the environment, which engines that are
started later would inherit; that is undone."""

import os

LEVEL = "VLLM_LOGGING_LEVEL"
_before = os.environ.get(LEVEL)

from trl import SFTConfig, SFTTrainer, pack_dataset  # noqa: E402
from trl.chat_template_utils import get_training_chat_template, has_generation_markers  # noqa: E402
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling  # noqa: E402

if _before is None:
    os.environ.pop(LEVEL, None)

__all__ = [
    "DataCollatorForLanguageModeling",
    "SFTConfig",
    "SFTTrainer",
    "get_training_chat_template",
    "has_generation_markers",
    "pack_dataset",
]
