"""A worker without an engine: the first argument is a folder that it leaves its marks in."""

import os
import time
from pathlib import Path

FOLDER = "SMALL_WORKER_FOLDER"


def leave(folder: Path, mark: str) -> None:
    (folder / f"{mark}-{os.getpid()}").touch()


def import_engine() -> None:
    """Leaves ``import``, and does as the file ``at-import`` says."""
    folder = Path(os.environ[FOLDER])
    leave(folder, "import")
    if (folder / "at-import").exists():
        exec((folder / "at-import").read_text())


def main(folder: Path, what: Path) -> None:
    """Leaves ``work``, and does as it is told."""
    leave(folder, "work")
    if what.name == "fail":
        raise ValueError("told to fail")
    if what.name == "hang":
        time.sleep(600)
    if what.name == "die":
        os.kill(os.getpid(), 9)
    print("done")
