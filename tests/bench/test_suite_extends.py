"""Suites that extend others, environment variables, and what is made of single models."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.names import SECRETS
from bench.suite import files as suite_files
from bench.suite import matrix, suite
from bench.suite.prune_spec import share_of
from replaceme.compat import commands as seed
from replaceme.errors import InputError

Call = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[..., None]
WriteSuite = Callable[..., Path]
ROOT = Path(__file__).parents[2]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def cell_names(path: Path) -> list[str]:
    return [cell.name for cell in matrix.expand(suite.load(path)).cells]


def message(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        matrix.expand(suite.load(path))
    return str(caught.value)


# ---- extends


def test_mappings_are_merged_and_lists_and_values_replaced(
    write_suite: WriteSuite, content: dict[str, Any], tmp_path: Path
) -> None:
    write_suite(prune=content["prune"] | {"batch_size": 3})
    child = write(
        tmp_path / "child.yaml",
        "extends: suite.yaml\nname: child\nscore: {limit: 5}\n"
        "prune: {layers: [1, 3], solvers: [uidl]}\n",
    )
    found = suite.load(child)
    assert found.name == "child"
    assert found.prune.layers == [1, 3]
    assert [spec.label for spec in found.prune.solvers] == ["uidl"]
    assert found.prune.batch_size == 3
    assert found.calibration.samples == 16
    assert found.score is not None
    assert found.score.limit == 5
    assert [task.task for task in found.score.tasks] == ["colours", "endings"]


def test_null_takes_a_value_back_to_its_default(write_suite: WriteSuite, tmp_path: Path) -> None:
    write_suite()
    text = (
        "extends: suite.yaml\nname: child\ncalibration: {samples: null}\ndevice:\n"
        "prune: {layers: null, blocks: [[2, 4]]}\n"
    )
    found = suite.load(write(tmp_path / "child.yaml", text))
    assert found.calibration.samples == 192
    assert found.calibration.max_length == 32
    assert found.device is None
    assert found.prune.given[0].start == 2


def test_chain_of_files_ends_in_the_last_word_of_each(write_suite: WriteSuite, tmp_path: Path) -> None:
    write_suite()
    write(tmp_path / "one.yaml", "extends: suite.yaml\nscore: {limit: 5}\ncalibration: {seed: 1}\n")
    write(tmp_path / "two.yaml", "extends: one.yaml\nscore: {limit: null}\ncalibration: {samples: 9}\n")
    found = suite.load(write(tmp_path / "three.yaml", "extends: two.yaml\ncalibration: {seed: 3}\n"))
    assert found.score is not None
    assert found.score.limit is None
    assert (found.calibration.seed, found.calibration.samples) == (3, 9)


def test_suite_that_extends_has_the_identities_of_one_that_says_all(
    write_suite: WriteSuite, content: dict[str, Any], tmp_path: Path
) -> None:
    whole = write_suite(prune={"layers": [2, 3], "solvers": ["uidl", "lstsq"]})
    wanted = [cell.identity for cell in matrix.expand(suite.load(whole)).cells]
    write(tmp_path / "base" / "base.yaml", yaml.safe_dump(content))
    child = write(tmp_path / "child.yaml", "extends: base/base.yaml\nprune: {layers: [2, 3]}\n")
    assert [cell.identity for cell in matrix.expand(suite.load(child)).cells] == wanted


def test_paths_are_relative_to_the_file_they_stand_in(
    tiny: Path, task_folder: Path, tmp_path: Path, content: dict[str, Any]
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "model").symlink_to(tiny)
    (base / "tasks").symlink_to(task_folder)
    (base / "text.txt").write_text("words " * 100)
    content |= {"models": ["./model"], "calibration": {"dataset": "text.txt"}}
    content["score"]["include_path"] = "tasks"
    write(base / "base.yaml", yaml.safe_dump(content))
    child = tmp_path / "other" / "child.yaml"
    found = suite.load(write(child, "extends: ../base/base.yaml\ncalibration: {samples: 5}\n"))
    assert Path(found.models[0].id) == tiny.resolve()
    assert found.score is not None
    assert found.score.include_path == [task_folder.resolve()]
    assert found.calibration.dataset == str(base / "text.txt")
    (child.parent / "text.txt").write_text("others " * 100)
    over = write(child, "extends: ../base/base.yaml\ncalibration: {dataset: text.txt}\n")
    assert suite.load(over).calibration.dataset == str(child.parent / "text.txt")


def test_error_names_the_file_and_line_where_the_wrong_value_stands(
    refused: Refused, call_here: Call, write_suite: WriteSuite, tmp_path: Path
) -> None:
    base = write_suite(calibration={"samples": -1})
    child = write(
        tmp_path / "child.yaml", "extends: suite.yaml\nname: child\nscore:\n  limit: none\n  taks: 1\n"
    )
    line = base.read_text().splitlines().index("  samples: -1") + 1
    refused(
        call_here("plan", child),
        f"{base}:{line}: calibration.samples: ",
        f"{child}:4: score.limit: ",
        f"{child}:5: score.taks: unknown key; did you mean 'tasks'?",
    )


def test_files_that_extend_each_other_are_refused_with_their_chain(
    refused: Refused, call_here: Call, tmp_path: Path
) -> None:
    write(tmp_path / "a.yaml", "name: a\nextends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: ./c.yaml\n")
    write(tmp_path / "c.yaml", f"extends: {tmp_path}/a.yaml\n")
    a, b, c = (tmp_path / f"{name}.yaml" for name in "abc")
    refused(call_here("plan", a), f"{c}:1: extends: the files extend each other: {a} → {b} → {c} → {a}.")
    own = write(tmp_path / "own.yaml", "extends: own.yaml\n")
    refused(call_here("plan", own), f"the files extend each other: {own} → {own}")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("extends: nothing.yaml", ":2: extends: {folder}/nothing.yaml cannot be read: No such file"),
        ("extends: demmo", ":2: extends: there is no file 'demmo', and no shipped suite of that name; "),
        ("extends: [demo, smoke]", ":2: extends: name a file or a shipped suite; got ['demo', 'smoke']"),
        ("extends: {a: 1}", ":2: extends: name a file or a shipped suite"),
        ("extends: 3", ":2: extends: name a file or a shipped suite; got 3"),
        ('extends: "a\\0b/c"', ":2: extends: "),
        ("extends: ~nobody-of-that-name/x.yaml", ":2: extends: "),
        ("extends: ..", ":2: extends: there is no file '..'"),
    ],
)
def test_base_that_is_not_there_is_named_with_the_line(
    refused: Refused, call_here: Call, tmp_path: Path, line: str, part: str
) -> None:
    path = write(tmp_path / "suite.yaml", f"name: x\n{line}\n")
    refused(call_here("plan", path), f"{path}{part.format(folder=tmp_path)}")


def test_shipped_suite_is_extended_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", "extends: llama\nname: mine\nprune: {solvers: [uidl]}\n")
    assert cell_names(path) == [
        "Llama-3.1-8B-Instruct/baseline",
        *(f"Llama-3.1-8B-Instruct/{count}/uidl" for count in (4, 8, 12)),
    ]


# ---- shipped suites


def test_shipped_suites_are_listed_and_planned_by_name_anywhere(call: Call, tmp_path: Path) -> None:
    names = ["demo", "demo-heal", "llama", "mistral", "paper", "qwen", "smoke"]
    listed = call("list", "suites", cwd=tmp_path).stdout.splitlines()
    assert [line.partition(":")[0] for line in listed] == names
    assert all((ROOT / "suites" / f"{name}.yaml").is_file() for name in names)
    result = call("plan", "smoke", "--json", cwd=tmp_path)
    cells = [cell["cell"].partition("/")[2] for cell in json.loads(result.stdout)["cells"]]
    assert cells == ["baseline", "6/uidl", "6/lstsq"]


@pytest.mark.parametrize("name", list(suite_files.shipped()))
def test_every_shipped_suite_is_planned(name: str) -> None:
    plan = matrix.expand(suite.load(suite_files.find(name, Path())))
    assert plan.suite.name == name
    assert {cell.layers for cell in plan.cells} > {0}


def test_quarter_of_the_papers_models_is_what_the_paper_removes() -> None:
    """Table 11 of arXiv 2505.02819: 8 layers of Llama-3-8B-Instruct, 7 of Qwen2.5-7B-Instruct."""
    cells = matrix.expand(suite.load(suite_files.find("paper", Path()))).cells
    counts = {cell.model.name: cell.layers for cell in cells if cell.layers}
    assert counts == {
        "Meta-Llama-3-8B-Instruct": 8,
        "Llama-3.1-8B-Instruct": 8,
        "Llama-3.2-1B-Instruct": 4,
        "Mistral-7B-Instruct-v0.3": 8,
        "Qwen2.5-7B-Instruct": 7,
    }


def test_smoke_is_a_part_of_the_demo_with_its_identities() -> None:
    def of(name: str) -> matrix.Plan:
        return matrix.expand(suite.load(suite_files.find(name, Path())))

    demo, smoke = of("demo"), of("smoke")
    assert smoke.suite.serve is None
    assert smoke.suite.score is not None
    assert {task.spec.task for task in smoke.tasks} <= {task.spec.task for task in demo.tasks}
    assert smoke.cells[0].identity == demo.cells[0].identity


def test_wheel_holds_the_shipped_suites(tmp_path: Path) -> None:
    import zipfile

    from hatchling.build import build_wheel

    here = Path.cwd()
    os.chdir(ROOT)
    try:
        with zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path))) as wheel:
            names = set(wheel.namelist())
    finally:
        os.chdir(here)
    assert {f"bench/suites/{name}.yaml" for name in suite_files.shipped()} <= names
    assert {"bench/suites/demo/facts.yaml", "bench/suites/demo/facts.jsonl"} <= names
    assert {f"replaceme/published/{name}" for name in seed.SHIPPED.values()} <= names


def test_file_of_that_name_wins_over_a_shipped_suite(
    call: Call, write_suite: WriteSuite, tmp_path: Path
) -> None:
    write_suite().rename(tmp_path / "demo")
    (tmp_path / "llama").mkdir()
    assert "tiny/2/uidl" in call("plan", "demo", cwd=tmp_path).stdout
    assert "Llama-3.1-8B-Instruct/8/lstsq" in call("plan", "llama", cwd=tmp_path).stdout


def test_unknown_name_says_what_is_shipped(refused: Refused, call_here: Call) -> None:
    refused(call_here("run", "smok"), "there is no file 'smok'", "did you mean 'smoke'?", "qwen")


# ---- environment variables


def test_variables_stand_for_values_of_every_kind(
    write_suite: WriteSuite, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS", str(tiny.parent))
    monkeypatch.setenv("COUNT", "3")
    monkeypatch.setenv("EMPTY", "")
    found = suite.load(
        write_suite(
            models=["${MODELS}/tiny"],
            prune={"layers": ["${COUNT}"], "solvers": [{"name": "lstsq", "ridge": "${RIDGE:-0.5}"}]},
            calibration={"samples": "${EMPTY:-8}", "column": "a${EMPTY}b$${COUNT}$x"},
        )
    )
    assert Path(found.models[0].id) == tiny
    assert found.prune.layers == [3]
    assert found.prune.solvers[0].solver.model_dump()["ridge"] == 0.5
    assert found.calibration.samples == 8
    assert found.calibration.column == "ab${COUNT}$x"


def test_variable_that_is_not_set_is_named_with_its_place(
    refused: Refused, call_here: Call, write_suite: WriteSuite
) -> None:
    path = write_suite(calibration={"dataset": "${NO_SUCH_THING}/x.jsonl"})
    line = path.read_text().splitlines().index("  dataset: ${NO_SUCH_THING}/x.jsonl") + 1
    refused(
        call_here("plan", path),
        f"{path}:{line}: calibration.dataset: the environment variable 'NO_SUCH_THING' is not set",
        "${NO_SUCH_THING:-…}",
    )


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "OPENAI_API_KEY", "my_secret", "PGPASSWORD", "AWS_CREDENTIALS"]
)
@pytest.mark.parametrize("default", ["", ":-x"])
def test_secrets_are_never_read(
    write_suite: WriteSuite, monkeypatch: pytest.MonkeyPatch, name: str, default: str
) -> None:
    monkeypatch.setenv(name, "hf_do_not_show")
    said = message(write_suite(models=[{"id": "x/y", "revision": f"${{{name}{default}}}"}]))
    assert "hf_do_not_show" not in said
    assert f"models.0.revision: the variable {name!r} is named like a secret" in said
    assert all(word in said for word in SECRETS)


@pytest.mark.parametrize("text", ["${}", "${A", "${A-b}", "${1A}", "${A:b}", "${A:-${B}}", "${A B}"])
def test_what_is_no_variable_is_refused(write_suite: WriteSuite, text: str) -> None:
    said = message(write_suite(device=text))
    assert "device: " in said
    assert "write ${NAME} or ${NAME:-default}" in said


def test_variables_do_not_make_keys_or_structure(
    write_suite: WriteSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X", "[1, 2]")
    assert "'[1, 2]' is no number of layers" in message(
        write_suite(prune={"layers": ["${X}"], "solvers": ["uidl"]})
    )
    assert "${X}: unknown key" in message(write_suite(**{"${X}": 1}))
    monkeypatch.setenv("X", "two\nlines")
    assert "'X' holds no plain line of text" in message(write_suite(device="${X}"))


# ---- what is made of single models


def test_matrix_of_a_model_changes_that_model_alone(write_suite: WriteSuite) -> None:
    models = [
        {"id": "org/plain"},
        {"id": "org/counts", "matrix": {"layers": [1, 5]}},
        {"id": "org/solvers", "matrix": {"solvers": [{"name": "refit", "as": "mine"}]}},
        {"id": "org/blocks", "matrix": {"blocks": [[2, 5], [7, 8]]}},
    ]
    cells = matrix.expand(suite.load(write_suite(models=models))).cells
    assert [cell.name for cell in cells if cell.layers] == [
        "plain/2/uidl",
        "plain/2/lstsq",
        "counts/1/uidl",
        "counts/1/lstsq",
        "counts/5/uidl",
        "counts/5/lstsq",
        "solvers/2/mine",
        "blocks/4/uidl",
        "blocks/4/lstsq",
    ]
    blocks = {cell.model.name: cell.identity.canonical()["blocks"] for cell in cells if cell.layers}
    assert blocks == {"plain": [], "counts": [], "solvers": [], "blocks": [[2, 5], [7, 8]]}


def test_own_matrix_has_the_identity_of_the_same_in_prune(write_suite: WriteSuite, tiny: Path) -> None:
    own = {"id": str(tiny), "matrix": {"layers": [3], "solvers": ["refit"]}}
    (_, inside) = matrix.expand(suite.load(write_suite(models=[own]))).cells
    (_, outside) = matrix.expand(
        suite.load(write_suite(prune={"layers": [3], "solvers": ["refit"]}))
    ).cells
    assert inside.identity == outside.identity
    assert inside.stem == outside.stem


@pytest.mark.parametrize(
    ("own", "part"),
    [
        ({"layers": [1], "blocks": [[2, 3]]}, "models.0.matrix: give either 'layers' or 'blocks'"),
        ({}, "models.0.matrix: give 'layers', 'blocks' or 'solvers'"),
        ({"lyers": [1]}, "models.0.matrix.lyers: unknown key; did you mean 'layers'?"),
        ({"layers": [0]}, "the least is 1"),
        ({"layers": [1, 1]}, "the same layer count stands twice"),
        ({"blocks": [[0, 3]]}, "[0, 3] is no block"),
        ({"solvers": ["lstsq", "lstsq"]}, "the label 'lstsq' stands twice"),
        ({"solvers": ["lstq"]}, "models.0.matrix.solvers.0: unknown solver 'lstq'"),
        ({"layers": [8]}, "8 layers cannot be removed from a model of 8"),
    ],
)
def test_wrong_matrix_is_refused(
    write_suite: WriteSuite, tiny: Path, own: dict[str, Any], part: str
) -> None:
    assert part in message(write_suite(models=[{"id": str(tiny), "matrix": own}]))


def test_matrix_that_does_not_go_with_prune_names_the_model(write_suite: WriteSuite) -> None:
    prune = {"layers": [4], "num_blocks": 2, "solvers": ["uidl"]}
    for own, part in [({"layers": [3]}, "3 layers cannot"), ({"blocks": [[2, 3]]}, "'num_blocks'")]:
        said = message(write_suite(models=[{"id": "org/x", "matrix": own}], prune=prune))
        assert "models.0.matrix of 'x': " in said
        assert part in said


# ---- shares of the layers


@given(st.integers(1, 9999), st.integers(1, 200))
def test_share_is_the_nearest_whole_number_and_at_least_one(hundredths: int, layers: int) -> None:
    found = share_of(f"{hundredths // 100}.{hundredths % 100:02}%", layers)
    exact = Fraction(hundredths * layers, 10_000)
    assert found >= 1
    if exact >= Fraction(1, 2):
        assert abs(found - exact) <= Fraction(1, 2)
        assert found > exact or exact - found < Fraction(1, 2)


@pytest.mark.parametrize(
    ("share", "layers", "count"),
    [("25%", 32, 8), ("25 %", 28, 7), ("25%", 36, 9), ("25%", 30, 8), ("12.5%", 28, 4), ("1%", 32, 1)],
)
def test_share_of_a_model_is_a_count_in_names_and_identities(
    write_suite: WriteSuite, share: str, layers: int, count: int
) -> None:
    def cells(counts: list[Any]) -> list[matrix.Cell]:
        models = [{"id": "org/x", "num_layers": layers}]
        prune = {"layers": counts, "solvers": ["uidl"]}
        return matrix.expand(suite.load(write_suite(models=models, prune=prune))).cells

    assert cells([share])[1].name == f"x/{count}/uidl"
    assert [cell.identity for cell in cells([share])] == [cell.identity for cell in cells([count])]


def test_share_is_taken_of_the_config_of_a_model_on_this_machine(write_suite: WriteSuite) -> None:
    path = write_suite(prune={"layers": ["25%", "50%"], "solvers": ["uidl"]})
    assert cell_names(path) == ["tiny/baseline", "tiny/2/uidl", "tiny/4/uidl"]


def test_share_is_taken_of_a_config_in_the_hubs_cache(
    write_suite: WriteSuite, tmp_path: Path, call: Call
) -> None:
    cache = tmp_path / "hub" / "models--org--x"
    write(cache / "refs" / "main", "abc")
    write(cache / "snapshots" / "abc" / "config.json", '{"num_hidden_layers": 12}')
    path = write_suite(models=["org/x"], prune={"layers": ["25%"], "solvers": ["uidl"]})
    assert "x/3/uidl" in call("plan", path, env={"HF_HUB_CACHE": str(tmp_path / "hub")}).stdout


def test_share_of_a_model_that_is_not_here_asks_for_its_layers(
    refused: Refused, call_here: Call, write_suite: WriteSuite
) -> None:
    path = write_suite(models=["org/elsewhere"], prune={"layers": [2, "25%"], "solvers": ["uidl"]})
    refused(
        call_here("plan", path),
        "model 'org/elsewhere': how many layers 25% is takes the model's config",
        "'num_layers: 32'",
    )


@pytest.mark.parametrize(
    "share", ["0%", "100%", "-5%", "25", "x%", "%", "1e1%", "2 5%", True, 2.5, None]
)
def test_what_is_no_share_is_refused(write_suite: WriteSuite, share: Any) -> None:
    path = write_suite(prune={"layers": [share], "solvers": ["uidl"]})
    if share == "25":
        assert "25 layers cannot be removed from a model of 8" in message(path)
    else:
        assert "is no number of layers; allowed are a whole number and a share" in message(path)


@pytest.mark.parametrize(
    ("prune", "part"),
    [
        ({"layers": [2, "25%"]}, "'tiny'"),
        ({"layers": ["20%", "25%"]}, "20% of 8 layers: 2 stands twice"),
        ({"layers": ["40%"], "num_blocks": 2}, "3 layers cannot be removed in 2 blocks"),
    ],
)
def test_shares_that_make_no_cells_name_the_model(
    write_suite: WriteSuite, prune: dict[str, Any], part: str
) -> None:
    said = message(write_suite(prune=prune | {"solvers": ["uidl"]}))
    assert "tiny'" in said
    assert part.strip("'") in said


def test_declared_layers_that_are_wrong_are_refused(write_suite: WriteSuite, tiny: Path) -> None:
    said = message(write_suite(models=[{"id": str(tiny), "num_layers": 9}]))
    assert "has 8 layers, but its entry says num_layers: 9" in said
    said = message(write_suite(models=[{"id": "org/x", "num_layers": 2}]))
    assert "2 layers cannot be removed from a model of 2" in said


@pytest.mark.slow
def test_models_with_matrices_of_their_own_are_run(
    call_here: Call, write_suite: WriteSuite, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    for name, layers in (("small", 4), ("large", 8)):
        save_model(tmp_path / name, num_hidden_layers=layers)
    models = ["./small", {"id": "./large", "matrix": {"blocks": [[2, 5]], "solvers": ["lstsq"]}}]
    path = write_suite(models=models, prune={"layers": ["25%"], "solvers": ["uidl"]})
    assert call_here("run", path, "--out", tmp_path / "out", "--limit", 4).returncode == 0
    blocks = {}
    for file in (tmp_path / "out" / "records").glob("*.json"):
        record = json.loads(file.read_text())
        blocks[f"{record['model']}/{record['layers']}/{record['label']}"] = record["prune"]["blocks"]
    assert set(blocks) == {"small/0/baseline", "small/1/uidl", "large/0/baseline", "large/3/lstsq"}
    assert blocks["large/3/lstsq"] == [[2, 5]]
    assert [end - start for start, end in blocks["small/1/uidl"]] == [1]


# ---- folders of tasks


def test_task_folders_may_be_several_nested_and_patterns(
    write_suite: WriteSuite, task_folder: Path, tmp_path: Path
) -> None:
    for name in ("colours", "endings"):
        folder = tmp_path / "sets" / name / "deep" / "er"
        folder.mkdir(parents=True)
        (folder / f"{name}.yaml").write_text((task_folder / f"{name}.yaml").read_text())
        (folder / "colours.jsonl").write_text((task_folder / "colours.jsonl").read_text())
    for include in (["sets/colours", "sets/endings"], "sets", "sets/*", ["sets", "sets/**"]):
        score = {"tasks": ["colours", "endings"], "include_path": include}
        assert len(matrix.expand(suite.load(write_suite(score=score))).tasks) == 2
    score = {"tasks": ["colours"], "include_path": ["sets/x*"]}
    assert "there is no folder" in message(write_suite(score=score))


def test_task_that_is_defined_twice_is_refused_with_both_files(
    write_suite: WriteSuite, task_folder: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "task.yaml").write_text((task_folder / "colours.yaml").read_text())
        (folder / "colours.jsonl").write_text((task_folder / "colours.jsonl").read_text())
    said = message(write_suite(score={"tasks": ["colours"], "include_path": ["one", "two"]}))
    assert "the task 'colours' is defined twice in include_path" in said
    assert f"{tmp_path}/one/task.yaml and by {tmp_path}/two/task.yaml" in said


def test_task_that_includes_itself_is_refused(write_suite: WriteSuite, tmp_path: Path) -> None:
    write(tmp_path / "tasks" / "a.yaml", "task: a\ninclude: b.yaml\n")
    write(tmp_path / "tasks" / "b.yaml", "include: a.yaml\n")
    said = message(write_suite(score={"tasks": ["a"], "include_path": "tasks"}))
    assert "the file includes itself" in said
