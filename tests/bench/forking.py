"""Runs ``replaceme-bench`` in forked children that share the imports, for tests that kill it many times.

A program: reads requests from standard input, a line each, answers with the child's process id, and,
when it is over, with its exit code, which is minus the signal that killed it. A request has

* ``arguments``, and ``output``, the path of two files for what is printed;
* ``fault``: a place and a number; the child kills itself, as the kernel does it where memory runs out,
  or interrupts itself, when it comes there for the given time;
* ``file_limit``: bytes of a file at most;
* ``ignored``: signals that are ignored, as SIGINT is in jobs that a shell starts in the background.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import lm_eval.evaluator
import lm_eval.tasks
import safetensors.torch
import torch
import transformers.models.llama.modeling_llama
from safetensors import SafetensorError

import bench.run.runner
import bench.scoring.one_pass
import bench.scoring.verify
import replaceme.fitting
import replaceme.pruned_checkpoint
import replaceme.session
from bench.cli import main
from bench.run import checkpoints
from bench.scoring.answers import Answers
from replaceme.io import tensorfile

LOADED = (datasets, lm_eval, torch, transformers, bench, replaceme)


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_file(tensors: Any, path: Any, *arguments: Any, **named: Any) -> None:
    """Write half of a safetensors file and die."""
    SAVE_FILE(tensors, path, *arguments, **named)
    os.truncate(path, Path(path).stat().st_size // 2)
    die()


def half_line(answers: Answers, *arguments: Any) -> None:
    """Write half of a line of the answers and die."""
    path = answers._path
    assert path
    before = path.stat().st_size if path.is_file() else 0
    KEEP(answers, *arguments)
    os.truncate(path, (before + path.stat().st_size) // 2)
    die()


def half_removed(folder: Any, *_: Any, **__: Any) -> None:
    """Remove a file of a folder and die."""
    next(iter(sorted(Path(folder).iterdir()))).unlink()
    die()


def interrupted(number: signal.Signals) -> Callable[..., None]:
    """A signal that comes inside a library which makes its own error of what the signal raises."""

    def end(*_: Any, **__: Any) -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        except KeyboardInterrupt:
            raise SafetensorError("what was raised in Python") from None

    return end


SAVE_FILE, KEEP = safetensors.torch.save_file, Answers.keep
FAULTS: dict[str, tuple[Any, str, Callable[..., None]]] = {
    "before a file is on the disk": (os, "fsync", die),
    "before a file has its name": (os, "replace", die),
    "before a checkpoint has its name": (os, "rename", die),
    "inside the weights": (tensorfile, "write_piece", die),
    "inside what a solver found": (safetensors.torch, "save_file", half_file),
    "inside the answers": (Answers, "keep", half_line),
    "inside a removal": (checkpoints, "discard", half_removed),
    "SIGINT that a library swallows": (safetensors, "safe_open", interrupted(signal.SIGINT)),
    "SIGTERM that a library swallows": (safetensors, "safe_open", interrupted(signal.SIGTERM)),
}


def install(place: str, number: int) -> None:
    owner, name, end = FAULTS[place]
    real, calls = getattr(owner, name), 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += not (owner is Answers and arguments[0]._path is None)  # answers that no file keeps
        return (end if calls == number else real)(*arguments, **named)

    setattr(owner, name, call)


def child(request: dict[str, Any]) -> int:
    os.setsid()
    for number, suffix in ((1, "out"), (2, "err")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(f"{request['output']}.{suffix}", flags), number)
    if "fault" in request:
        install(*request["fault"])
    if limit := request.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for number in request.get("ignored", []):
        signal.signal(number, signal.SIG_IGN)
    try:
        main(request["arguments"])
    except SystemExit as done:
        return int(done.code or 0)
    finally:
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            code = 1
            try:
                code = child(json.loads(line))
            finally:
                os._exit(code)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
