"""The batch file for SLURM: sound shell, and a run on two machines made of namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.results_left import left_by

SCRIPT = Path(__file__).parents[2] / "docs" / "slurm.sbatch"
BIN = Path(sys.executable).parent
SHELLCHECK = shutil.which("shellcheck", path=f"{BIN}:{os.environ['PATH']}")
HEAD, OTHER = "10.77.0.1", "10.77.0.2"
SRUN = """#!/bin/sh
# A command on both machines, each with a network, processes, and a folder /tmp/ray of its own.
on() {
  machine=$1; shift
  mkdir -p "$FOLDER/$machine" /tmp/ray
  ip netns exec "$NAME-$machine" unshare --mount --pid --fork --kill-child --mount-proc --uts \\
    sh -c 'mount --bind "$1" /tmp/ray && hostname "$2" && shift 2 && exec "$@"' sh \\
    "$FOLDER/$machine" "$machine" "$@" > "$FOLDER/$machine.log" 2>&1
}
on other "$@" &
on head "$@"
code=$?
wait
exit "$code"
"""


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_batch_file_is_sound() -> None:
    assert SHELLCHECK
    done = subprocess.run([SHELLCHECK, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def machines() -> Iterator[str]:
    """The common name of two networks that see each other."""
    name = f"replaceme-{os.getpid()}"
    first, second = f"{name}-head", f"{name}-other"
    commands = [
        *(f"netns add {one}" for one in (first, second)),
        f"link add name wire netns {first} type veth peer name wire netns {second}",
        f"-n {first} address add {HEAD}/24 dev wire",
        f"-n {second} address add {OTHER}/24 dev wire",
        *(f"-n {one} link set {link} up" for one in (first, second) for link in ("lo", "wire")),
    ]
    try:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        yield name
    finally:
        for one in (first, second):
            subprocess.run(["ip", "netns", "delete", one])


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="namespaces of network need root and iproute2"
)
def test_batch_file_runs_a_suite_on_two_machines(
    call: Any, write_small: Callable[..., Path], machines: str, tmp_path: Path
) -> None:
    programs, home, out = tmp_path / "bin", tmp_path / "home", tmp_path / "out"
    programs.mkdir()
    home.mkdir()
    write_program(programs / "scontrol", f"#!/bin/sh\necho {HEAD}; echo {OTHER}\n")
    write_program(programs / "srun", SRUN)
    path = write_small()
    slurm = {"SLURM_JOB_NODELIST": "two", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1"}
    own = {"NAME": machines, "FOLDER": str(tmp_path), "HOME": str(home), "OMP_NUM_THREADS": "1"}
    env = os.environ | slurm | own | {"PATH": f"{programs}:{BIN}:{os.environ['PATH']}"}
    subprocess.run(
        [BIN / "ray", "get-auth-token", "--generate"], env=env, check=True, capture_output=True
    )
    done = subprocess.run(
        ["bash", SCRIPT, path, out], env=env, capture_output=True, text=True, timeout=400
    )
    logs = [(tmp_path / f"{machine}.log").read_text() for machine in ("head", "other")]
    assert done.returncode == 0, logs
    assert sorted(log.name for log in out.glob("logs/worker-*")) == ["worker-1.log", "worker-2.log"]
    assert "On worker node" in logs[1]
    local = call("run", path, "--out", tmp_path / "local", env={"OMP_NUM_THREADS": "1"})
    assert local.returncode == 0, local.stderr
    assert left_by(out) == left_by(tmp_path / "local")
