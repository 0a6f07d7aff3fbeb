"""The process that workers are forked from, so that the engine is imported once:
`python -P -m bench.serving.forkserver WORKER THREADS`, which `bench.serving.workers` starts.

A line of standard input is a JSON list: a log file, and the arguments of a worker. The line of output in
reply is the worker's exit status. Everything ends when standard input is closed.
"""

import json
import os
import select
import signal
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

from bench.serving.worker import prepare_environment


class ForkServer:
    """Forks one worker after the other.

    Attributes:
        worker: the one that runs, which leads a process group; 0 where none does.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module, self.worker = module, 0
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        threading.Thread(target=self._end_with_input, daemon=True).start()

    def serve(self) -> None:
        """Import the engine, and do as told."""
        self.module.import_engine()
        for line in sys.stdin:
            print(self._run(*json.loads(line)), file=self.answers, flush=True)

    def _run(self, log: str, *arguments: str) -> int:
        """Run a worker to its end; returns its exit status."""
        ours, theirs = os.pipe()
        self.worker = os.fork()
        if not self.worker:
            os.close(theirs)
            self.answers.close()
            _work(self.module, ours, log, arguments)
        os.close(ours)
        with suppress(ProcessLookupError, PermissionError):  # it may have done so itself, or have ended
            os.setpgid(self.worker, self.worker)
        _, status = os.waitpid(self.worker, 0)
        self._kill_worker()
        self.worker = 0
        os.close(theirs)
        return os.waitstatus_to_exitcode(status)

    def _end_with_input(self) -> None:
        watched = select.poll()
        watched.register(0, select.POLLHUP)
        watched.poll()
        self._kill_worker()
        os._exit(1)

    def _kill_worker(self) -> None:
        if self.worker:
            with suppress(ProcessLookupError):
                os.killpg(self.worker, signal.SIGKILL)


def _work(module: ModuleType, lifeline: int, log: str, arguments: tuple[str, ...]) -> None:
    """Be a worker, to the end of this process."""
    from setproctitle import setproctitle  # comes with vLLM

    status = 1
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for target, source in enumerate([lifeline, output, output]):
            os.dup2(source, target)
        threading.Thread(target=_die_with_parent, daemon=True).start()
        setproctitle(" ".join([sys.executable, "-m", module.__name__, *arguments]))
        module.main(*map(Path, arguments))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _die_with_parent() -> None:
    """Wait until the other end of our standard input is closed, then end the whole process group."""
    while os.read(0, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main(module: str, threads: int | None) -> None:
    """Serve workers of a module, whose engine computes in so many threads on a CPU.

    The place of a process's title is found beside its environment, as long as nothing has been changed
    there.
    """
    with suppress(ImportError):
        import_module("setproctitle").getproctitle()
    prepare_environment(threads)
    ForkServer(import_module(module)).serve()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) or None)
