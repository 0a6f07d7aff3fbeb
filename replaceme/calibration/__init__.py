"""A data set → token sequences → batches.

Rules, the same for every source:

* A row of text gets the special tokens that its tokenizer adds by default. A row of messages goes
  through the model's chat template, which writes its own special tokens.
* A ``.txt`` file (or a built-in text) is cut into consecutive windows of ``max_length`` tokens; each
  starts with the tokenizer's BOS where the tokenizer would put one.
* Text that the model writes itself is a file of such rows, which somebody else has it write before.
* A row that cannot be used is skipped and counted; more such rows than usable ones are refused.
"""

from replaceme.calibration.batches import Batch, Batches, padding_token
from replaceme.calibration.chats import Messages, UnusableError, said_in
from replaceme.calibration.check import check_data
from replaceme.calibration.data import (
    BUILTIN_PREFIX,
    BUILTINS,
    PICKLES,
    CalibrationData,
    is_data_file,
)
from replaceme.calibration.generated import COLUMN, GENERATED, Generated
from replaceme.calibration.prompts import Prompt, read_prompts
from replaceme.calibration.rows import rows_of, values_of
from replaceme.calibration.sequences import (
    CalibrationText,
    RowCount,
    encode_messages,
    encode_rows,
    load_sequences,
    read_text,
    render,
    token_hash,
    tokenize,
    windows,
)

__all__ = [
    "BUILTINS",
    "BUILTIN_PREFIX",
    "COLUMN",
    "GENERATED",
    "PICKLES",
    "Batch",
    "Batches",
    "CalibrationData",
    "CalibrationText",
    "Generated",
    "Messages",
    "Prompt",
    "RowCount",
    "UnusableError",
    "check_data",
    "encode_messages",
    "encode_rows",
    "is_data_file",
    "load_sequences",
    "padding_token",
    "read_prompts",
    "read_text",
    "render",
    "rows_of",
    "said_in",
    "token_hash",
    "tokenize",
    "values_of",
    "windows",
]
