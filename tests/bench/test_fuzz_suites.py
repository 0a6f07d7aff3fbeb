"""Suite files of any bytes, texts and values: planned or refused in sentences, in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from tests.bench.fuzzing import NASTY, damaged, ends_well, fuzz, mutated, write

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lm_eval_names")]

SUITES = Path(__file__).parents[2] / "suites"
FULL = {
    "name": "full",
    "models": [
        {"id": "org/model", "revision": "main", "dtype": "bfloat16", "num_layers": 24},
        {"id": "org/other", "matrix": {"layers": [2, "25%"], "solvers": ["uidl"]}, "num_layers": 32},
    ],
    "prune": {
        "layers": [4, "50%"],
        "solvers": ["uidl", {"name": "lstsq", "ridge": 0.001, "as": "ridge"}],
        "selector": "angular-mean",
        "batch_size": 4,
    },
    "calibration": {"dataset": "org/text", "column": "text", "samples": 16, "max_length": 64, "seed": 1},
    "score": {
        "tasks": ["paper", {"task": "arc_easy", "num_fewshot": 5, "metric": "acc", "average": False}],
        "limit": 10,
        "method": "per-variant",
        "dtype": "float32",
    },
    "serve": {
        "workloads": [{"input_len": 16, "output_len": 4, "batch_size": 1}],
        "repeats": 2,
        "kv_cache_gib": 0.5,
        "timeout": 100.0,
    },
    "device": "cpu",
    "keep_checkpoints": "best",
}
TEXT = yaml.safe_dump(FULL, sort_keys=False)
PIECES = [
    *("&a ", "*a", "&a [*a, *a]", "<<: *a\n", "<<: [*a, *b]\n", "!!python/object/apply:os.system ['x']"),
    *("!!binary aGk=", "!!set {a, b}", "!!timestamp 2001-01-01", "!!int x", "!!float .", "!local x"),
    *(
        "{{{{",
        "[" * 200,
        "? [a]\n: b\n",
        "---\n",
        "...\n",
        "%YAML 1.1\n---\n",
        "%TAG ! tag:x,2000:\n---\n",
    ),
    *("2001-13-45", "0o77", "1:60:60", "0x" + "f" * 400, "9" * 400, ".inf", ".nan", "1e400", "~", "yes"),
    *(
        "|\n  x\n",
        ">-\n",
        "'",
        '"',
        '"\\x1b[31m"',
        '"\\ud800"',
        "\t",
        "\u2028",
        "\ufeff",
        "\x85",
        "#",
        ": ",
    ),
    *(
        "${HOME}",
        "${",
        "${X:-",
        "$${",
        "${HF_TOKEN}",
        "${" * 50,
        "extends: demo\n",
        "extends: suite.yaml\n",
    ),
    *("name: x\n", "prune: null\n", "matrix: {}\n", "- \n", "  ", "101%", "-5%", "25.5%", "1e3%", "٣%"),
]
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{'*a' + str(i - 1)}, *a{i - 1}]\n" for i in range(1, 40)
)


@st.composite
def spliced(draw: Any) -> str:
    """The text of a suite with pieces of YAML put in, and lines moved, doubled or left out."""
    lines = draw(st.sampled_from([TEXT, BOMB])).splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 4))):
        number = draw(st.integers(0, len(lines) - 1))
        line, what = (
            lines[number],
            draw(st.sampled_from(["in", "in", "value", "double", "drop", "move"])),
        )
        if what == "in":
            column = draw(st.integers(0, len(line)))
            lines[number] = line[:column] + draw(st.sampled_from(PIECES)) + line[column:]
        elif what == "value":
            lines[number] = line.partition(":")[0] + ": " + draw(st.sampled_from(PIECES)) + "\n"
        elif what == "double":
            lines.insert(number, line)
        elif what == "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), line)
        elif len(lines) > 1:
            del lines[number]
    return "".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("suites")


def planned(folder: Path, content: bytes) -> None:
    """Plan a suite of this content; a refusal has a line for each problem, which names the file."""
    suite = write(folder / "suite.yaml", content)
    result = ends_well("plan", suite, "--out", folder / "out", codes={0, 2})
    assert not (folder / "out").exists()
    if result.exit_code == 2:
        lines = result.stderr.removeprefix("Error: ").removesuffix("\n").split("\n")
        assert len(lines) <= 11
        known = (
            "task",
            "model",
            "unknown task",
            "calibration",
            "the cells",
            "/",
        )  # or a file it extends
        assert lines[0].startswith((str(suite), *known)) or "prune.layers" in lines[0], lines


@fuzz(60, content=st.binary(max_size=200) | damaged(TEXT.encode()))
def test_any_bytes_are_planned_or_refused(folder: Path, content: bytes) -> None:
    planned(folder, content)


@fuzz(60, text=st.text(max_size=200) | spliced())
def test_any_text_is_planned_or_refused(folder: Path, text: str) -> None:
    planned(folder, text.encode("utf-8", "surrogatepass"))


@fuzz(150, content=mutated(FULL))
def test_any_values_are_planned_or_refused(folder: Path, content: dict[str, Any]) -> None:
    try:
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    except (UnicodeError, RecursionError):
        return
    planned(folder, text.encode("utf-8", "surrogatepass"))


@fuzz(60, section=st.sampled_from(sorted(set(FULL) - {"name"})), value=st.sampled_from(NASTY))
def test_any_section_may_be_anything(folder: Path, section: str, value: Any) -> None:
    planned(folder, yaml.safe_dump(FULL | {section: value}).encode("utf-8", "surrogatepass"))


@fuzz(40, name=st.sampled_from(sorted(path.stem for path in SUITES.glob("*.yaml"))), data=st.data())
def test_changed_shipped_suites_are_planned_or_refused(folder: Path, name: str, data: Any) -> None:
    text = (
        (SUITES / f"{name}.yaml")
        .read_text("utf-8")
        .replace("include_path: demo/", f"include_path: {SUITES / 'demo'}")
    )
    changed = data.draw(mutated(yaml.safe_load(text), 2))
    try:
        planned(folder, yaml.safe_dump(changed).encode("utf-8", "surrogatepass"))
    except yaml.YAMLError:
        return
