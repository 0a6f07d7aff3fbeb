"""lm-eval's command line in forked processes that share the imports, each with an empty cache.

A program: its argument is a JSON list with the arguments of each run; the results of the runs, as
``lm_eval`` writes them, are the lines of what it prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

import datasets
import lm_eval.evaluator
import lm_eval.models.huggingface
import lm_eval.tasks
import torch
from lm_eval.__main__ import cli_evaluate

LOADED = (lm_eval, torch)


def run(arguments: list[str], folder: Path) -> None:
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    sys.argv = ["lm_eval", *arguments, "--output_path", str(folder / "results")]
    with contextlib.redirect_stdout(sys.stderr):
        cli_evaluate()


def leave_out_what_takes_seconds() -> None:
    """The index of lm-eval's own tasks, and the versions of everything that is installed."""
    lm_eval.evaluator.add_env_info = lambda _: None
    lm_eval.tasks.TaskManager.__init__.__defaults__ = (None, None, False, None)


if __name__ == "__main__":
    leave_out_what_takes_seconds()
    torch.set_num_threads(1)
    for arguments in json.loads(sys.argv[1]):
        with tempfile.TemporaryDirectory() as name:
            if (pid := os.fork()) == 0:
                code = 1
                try:
                    run(arguments, Path(name))
                    code = 0
                finally:
                    os._exit(code)
            os.waitpid(pid, 0)
            (file,) = Path(name).rglob("results_*.json")
            print(json.dumps(json.loads(file.read_text())), flush=True)
