"""Attacks by what a user may be given: suites, models, data, records, folders. One test for each."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.run.console import progress
from bench.scoring.catalog import find
from bench.store import Store
from bench.suite.matrix import file_name
from replaceme.calibration import CalibrationData, load_sequences
from replaceme.editfile import load_edit
from replaceme.errors import InputError, OutputError
from replaceme.files import write_atomically
from tests.bench import cells
from tests.bench.fuzzing import control_characters, ends_well, in_time
from tests.bench.test_fuzz_files import edit_bytes

Call = Callable[..., subprocess.CompletedProcess[str]]
WriteSuite = Callable[..., Path]
Refused = Callable[..., None]
ESCAPES = "\x1b[2J\x1b]0;title\x07\x1b]8;;http://x\x1b\\link\r\x9b31m"
HOSTILE = f"<img src=x onerror=alert(1)>\\input{{x}}|=1+1 [a](javascript:b){ESCAPES}\u202e"


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- paths


@pytest.mark.parametrize("name", ["../x", "/abs", "a/b", "a\0b", "x\n", "..", "", ".", "-x", "x" * 101])
def test_path_traversal_in_the_name_of_a_suite(
    call_here: Call, refused: Refused, write_suite: WriteSuite, name: str
) -> None:
    refused(call_here("plan", write_suite(name=name)), "suite.yaml", ": name: ")


@pytest.mark.parametrize(
    "text",
    [
        "../../x",
        "/etc/passwd",
        "a\0b\nc",
        "x" * 5000,
        "模" * 300,
        "CON",
        "..",
        "",
        "\x1b[31m",
        "a\\b:c*?",
    ],
)
def test_any_text_is_a_safe_part_of_a_file_name(text: str) -> None:
    name = f"{file_name(text)}-0123abcd"
    assert Path(name).name == name
    assert name.isprintable()
    assert len(f".{name}.jsonl.gz-12345678".encode()) < 255
    assert not set(name) & set('/\\:*?"<>|')


def test_path_traversal_by_models_labels_and_tasks(
    call_here: Call, write_suite: WriteSuite, tiny: Path, task_folder: Path, tmp_path: Path
) -> None:
    """Nothing is written outside of the result folder, and no two cells share a file."""
    folder, out = tmp_path / ("m" * 250), tmp_path / "a" / "b" / "out"
    folder.symlink_to(tiny)
    own = tmp_path / "tasks"
    own.mkdir()
    shutil.copy(task_folder / "colours.jsonl", own)
    settings = yaml.safe_load((task_folder / "colours.yaml").read_text()) | {"task": "../../../evil\n"}
    (own / "evil.yaml").write_text(yaml.safe_dump(settings))
    labels = ["../../../evil", "/evil", "evil\0", "a", "A", "CON", "x" * 300]
    solvers = [{"name": "lstsq", "ridge": 0.1 * (i + 1), "as": label} for i, label in enumerate(labels)]
    suite = write_suite(
        models=[str(folder)],
        prune={"layers": [2], "solvers": solvers},
        score={"tasks": ["../../../evil\n"], "include_path": str(own), "batch_tokens": 512},
    )
    before = files_below(tmp_path)
    result = call_here("run", suite, "--out", out)
    assert result.returncode == 0, result.stderr
    assert not control_characters(result.stdout + result.stderr)
    after = files_below(tmp_path)
    assert {name for name in after.keys() - before.keys() if not name.startswith("a/b/out/")} == set()
    assert {name: after[name] for name in before} == before
    found = Store(out).all()
    assert sorted(record.label for record in found.values()) == sorted(["baseline", *labels])
    assert len({stem.lower() for stem in found}) == len(labels) + 1
    ends_well("report", out, codes={0})
    ends_well("report", out, "--format", "html", "-o", tmp_path / "page.html", codes={0})
    ends_well("plot", out, "--out", tmp_path / "plots", codes={0})
    assert all(path.parent == tmp_path / "plots" for path in (tmp_path / "plots").rglob("*"))


# ---- YAML

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
BOMBS = {
    "laughs": LAUGHS,
    "merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: *a{i - 1}}}\n" for i in range(1, 60)),
    "itself": "a: &a [*a]\n",
    "deep": "a: " + "[" * 20_000,
    "keys": "? " * 5000 + "a\n",
    "digits": f"a: {'9' * 200_000}\n",
    "base60": f"a: {'1:' * 50_000}1\n",
    "large": "a: " + "x" * 300_000,
    "many": "a: [" + "1," * 20_000 + "]\n",
}
COMMANDS = {
    "suite": lambda path: ("plan", path, "--out", path.with_name("out")),
    "settings": lambda path: ("prune", "--config", path, "--out", path.with_name("out")),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("command", COMMANDS)
def test_yaml_bomb(tmp_path: Path, bomb: str, command: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[bomb])
    with in_time(5):
        assert str(path) in ends_well(*COMMANDS[command](path), codes={2}).stderr


@pytest.mark.parametrize("bomb", BOMBS)
def test_yaml_bomb_among_the_tasks(tmp_path: Path, bomb: str) -> None:
    (tmp_path / "bomb.yaml").write_text(f"task: bomb\n{BOMBS[bomb]}")
    with in_time(30):
        try:
            find("bomb", [tmp_path])
        except InputError as error:
            assert str(tmp_path / "bomb.yaml") in str(error)


TAGS = [
    "!!python/object/apply:os.system ['{}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!function os.system",
]
TAGS += [
    "!!python/object/new:os.system ['{}']",
    "!!python/object/apply:subprocess.check_output [[sh, -c, '{}']]",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_yaml_tag_that_makes_objects(tmp_path: Path, tag: str, command: str) -> None:
    path, marker = tmp_path / "suite.yaml", tmp_path / "marker"
    path.write_text("name: " + tag.format(f"touch {marker}") + "\n")
    assert "tag" in ends_well(*COMMANDS[command](path), codes={2}).stderr
    assert not marker.exists()


# ---- markup in names and messages


def hostile_folder(folder: Path) -> Path:
    """Results whose every text is hostile."""
    store = Store(folder)
    for number, layers in enumerate((0, 4, 4)):
        record = cells.cell(f"{number}{HOSTILE}", layers, {HOSTILE: 0.5, "x": 0.1}, model=HOSTILE)
        record.prune.warning = HOSTILE if record.prune else None
        store.write(f"cell-{number}", record)
    for stage in ("prune", f"score:{HOSTILE}"):
        store.write(f"failed-{stage[:5]}", cells.failed(stage[:5], 4, HOSTILE, stage, model=HOSTILE))
    return folder


@pytest.mark.parametrize("kind", ["table", "markdown", "csv", "latex", "json"])
@pytest.mark.parametrize("verb", ["report", "compare", "pick", "card"])
def test_terminal_escapes_in_records(tmp_path: Path, kind: str, verb: str) -> None:
    folder = hostile_folder(tmp_path)
    commands: dict[str, tuple[Any, ...]] = {
        "report": ("report", folder, "--format", kind),
        "compare": ("compare", folder, folder, *(["--json"] if kind == "json" else [])),
        "pick": ("pick", folder, *(["--json"] if kind == "json" else [])),
        "card": ("card", folder / "records" / "cell-1.json"),
    }
    result = ends_well(*commands[verb], codes={0, 1, 2})
    assert not control_characters(result.output)
    assert "\u202e" not in result.output


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_html_in_records(tmp_path: Path) -> None:
    page = ends_well("report", hostile_folder(tmp_path), "--format", "html", codes={0}).stdout
    parser = Tags()
    parser.feed(page)
    tags = [tag for tag, _ in parser.found]
    assert "img" not in tags and "iframe" not in tags
    assert not [
        attributes for _, attributes in parser.found if any(key.startswith("on") for key in attributes)
    ]
    links = [
        value or ""
        for _, attributes in parser.found
        for key, value in attributes.items()
        if key == "href"
    ]
    assert not [link for link in links if link.lower().startswith(("javascript:", "data:text"))]


@pytest.mark.parametrize(
    "verb", ["plan", "report", "compare", "pick", "history", "card", "apply", "plot", "prune"]
)
def test_terminal_escapes_in_arguments_and_error_messages(tmp_path: Path, verb: str) -> None:
    name = tmp_path / "\x1b[31mred\x1b]0;t\x07"
    rest = {
        "compare": [name],
        "plot": ["--out", name],
        "card": ["--results", name],
        "apply": [name, "--out", name],
        "prune": ["--layers", "1", "--out", name],
    }
    result = ends_well(verb, name, *rest.get(verb, []), codes={2})
    assert "red" in result.stderr
    assert not control_characters(result.output)


def test_terminal_escapes_in_labels_of_a_plan(write_suite: WriteSuite) -> None:
    solvers = [{"name": "uidl", "as": f"x{ESCAPES}"}]
    result = ends_well("plan", write_suite(prune={"layers": [2], "solvers": solvers}), codes={0})
    assert "2/x␛" in result.stdout
    assert not control_characters(result.output)


def test_terminal_escapes_in_progress() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream in (io.StringIO(), Screen()):
        with progress(stream, 3) as reporter:
            reporter.step("[/]")
            reporter.say(f"[red]said[/red] {ESCAPES}\nnext line")
            reporter.next_step(f"[red]step[/red] {ESCAPES}")
        shown = stream.getvalue()
        assert "[red]step[/red]" in shown
        assert "[red]said[/red]" in shown
        assert "\x1b[2J" not in shown and "\x1b]" not in shown and "\x07" not in shown
        assert "\nnext line" in shown


# ---- links


def test_link_in_place_of_a_file_to_write_is_replaced(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "out" / "record.json"
    victim.write_text("precious")
    link.parent.mkdir()
    link.symlink_to(victim)
    write_atomically(link, b"new")
    assert victim.read_text() == "precious"
    assert not link.is_symlink()
    assert link.read_bytes() == b"new"


def test_link_in_place_of_the_file_that_an_edit_is_first_written_to(tmp_path: Path) -> None:
    victim, part = tmp_path / "victim", tmp_path / ".edit.safetensors.part"
    victim.write_text("precious")
    part.symlink_to(victim)
    edit_bytes(tmp_path)
    assert victim.read_text() == "precious"
    assert load_edit(tmp_path / "edit.safetensors")[0].blocks
    assert not part.is_symlink()


def test_links_in_a_result_folder(call_here: Call, write_suite: WriteSuite, tmp_path: Path) -> None:
    """A folder that is a link is followed; a file that is one is replaced by a file."""
    suite, out = write_suite(prune={"layers": [2], "solvers": ["lstsq"]}), tmp_path / "out"
    assert call_here("run", suite, "--out", out).returncode == 0
    elsewhere, victims = tmp_path / "elsewhere", tmp_path / "victims"
    (out / "records").rename(elsewhere)
    (out / "records").symlink_to(elsewhere)
    planted = [p for d in ("records", "samples", "edits") for p in sorted((out / d).iterdir())]
    planted += sorted(out.glob("leaderboard.*"))
    assert len(planted) >= 5 + 5
    victims.mkdir()
    for path in planted:
        content = path.read_bytes()
        if path.suffix == ".json" and path.parent.name == "records":  # so that all is done again
            content = json.dumps(json.loads(content) | {"prune": None, "quality": {}}).encode()
        (victims / path.name).write_bytes(content)
        path.unlink()
        path.symlink_to(victims / path.name)
    for path in sorted((out / "edits").iterdir()):
        part = path.with_name(f".{path.name}.part")
        (victims / part.name).write_text("precious")
        part.symlink_to(victims / part.name)
    before = files_below(victims)
    result = call_here("run", suite, "--out", out)
    assert result.returncode == 0, result.stderr
    assert files_below(victims) == before
    assert not [path for path in planted if path.is_symlink() or not path.is_file()]
    assert (out / "records").is_symlink()
    assert all(record.status == "complete" for record in Store(out).all().values())


@pytest.mark.parametrize("name", [".lock", "logs/run.log"])
def test_link_in_place_of_lock_or_log_is_refused(
    call_here: Call, refused: Refused, write_suite: WriteSuite, tmp_path: Path, name: str
) -> None:
    victim, link = tmp_path / "victim", tmp_path / "out" / name
    victim.write_text("precious")
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    refused(call_here("run", write_suite(), "--out", tmp_path / "out"), "cannot be written")
    assert victim.read_text() == "precious"


def test_link_in_place_of_a_checkpoint_does_not_cost_a_folder_of_the_user(
    call_here: Call, write_suite: WriteSuite, tmp_path: Path
) -> None:
    suite, out = write_suite(prune={"layers": [2], "solvers": ["uidl"]}), tmp_path / "out"
    assert call_here("run", suite, "--out", out).returncode == 0
    (checkpoint,) = (out / "checkpoints").iterdir()
    shutil.rmtree(out)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.txt").write_text("precious")
    (out / "checkpoints").mkdir(parents=True)
    checkpoint.symlink_to(victim)
    result = call_here("run", suite, "--out", out)
    assert result.returncode == 3
    assert (victim / "thesis.txt").read_text() == "precious"
    assert sorted(path.name for path in victim.iterdir()) == ["thesis.txt"]


# ---- pickles


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture
def evil(tmp_path: Path) -> tuple[bytes, Path]:
    """A pickle that creates a file when it is loaded, and that file."""
    marker = tmp_path / "marker"
    content = pickle.dumps(Evil(marker))
    pickle.loads(content)
    assert marker.exists()
    marker.unlink()
    return content, marker


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".pth", ".pt", ".bin"])
def test_pickle_as_calibration_data(
    call_here: Call, refused: Refused, write_suite: WriteSuite, tmp_path: Path, evil: Any, suffix: str
) -> None:
    content, marker = evil
    data = tmp_path / f"data{suffix}"
    data.write_bytes(content)
    suite = write_suite(calibration={"dataset": str(data)})
    refused(call_here("plan", suite), "is a pickle, which can run code when it is read")
    words = ["--layers", "1", "--calibration", data, "--out", tmp_path / "out"]
    refused(call_here("prune", yaml.safe_load(suite.read_text())["models"][0], *words), "is a pickle")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet", "data.txt"])
def test_pickle_under_the_name_of_a_data_set(
    tmp_path: Path, tokenizer: Any, evil: Any, name: str
) -> None:
    content, marker = evil
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_sequences(CalibrationData(dataset=str(tmp_path / name)), tokenizer)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["data.pkl", "data.pickle", "data.bin", "train.pt"])
def test_pickle_in_a_data_set_folder(tmp_path: Path, tokenizer: Any, evil: Any, name: str) -> None:
    content, marker = evil
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_sequences(CalibrationData(dataset=str(tmp_path / "set")), tokenizer)
    assert not marker.exists()


def test_pickle_as_weights_of_a_model(
    call_here: Call, refused: Refused, write_suite: WriteSuite, tiny: Path, tmp_path: Path, evil: Any
) -> None:
    content, marker = evil
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(content)
    refused(call_here("plan", write_suite(models=[str(model)])), "pickled weights", "never read")
    assert not marker.exists()


@pytest.mark.parametrize("path", ["json", "pandas"])
@pytest.mark.parametrize("name", ["data.pkl", "data.dat"])
def test_pickle_as_data_of_a_task(tmp_path: Path, evil: Any, path: str, name: str) -> None:
    content, marker = evil
    (tmp_path / name).write_bytes(content)
    data = {"dataset_path": path, "dataset_kwargs": {"data_files": {"test": name}}, "test_split": "test"}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"task": "t"} | data))
    if path == "json" and name == "data.dat":
        assert find("t", [tmp_path]).yaml  # JSON is read as JSON, whatever the name
    else:
        with pytest.raises(InputError, match="a pickle, which can run code"):
            find("t", [tmp_path])
    assert not marker.exists()


# ---- code


FUNCTIONS = [
    "!function {outside}/evil.run",
    "!function os.system",
    "!function 'os.system'",
    "!<!function> os.system",
]
FUNCTIONS += [
    "!function\n  os.system",
    "!function ..evil.run",
    "!function subprocess.getoutput",
    "!function run",
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("key", ["custom_dataset", "process_docs", "doc_to_text", "class"])
def test_task_function_outside_of_the_folders_that_a_suite_names(
    call_here: Call, refused: Refused, write_suite: WriteSuite, tmp_path: Path, function: str, key: str
) -> None:
    tasks, outside, marker = tmp_path / "tasks", tmp_path / "outside", tmp_path / "marker"
    for folder in (tasks, outside):
        folder.mkdir()
    (outside / "evil.py").write_text(f"open({str(marker)!r}, 'w')\ndef run(*a, **k): pass\n")
    text = function.format(outside=outside)
    (tasks / "t.yaml").write_text(
        f"task: t\n{key}: {text}\ndataset_kwargs: {{command: touch {marker}}}\n"
    )
    suite = write_suite(score={"tasks": ["t"], "include_path": str(tasks)})
    refused(call_here("plan", suite), "t.yaml: !function", "score.include_path")
    assert call_here("run", suite, "--out", tmp_path / "out").returncode == 2
    assert not marker.exists()


def test_task_function_behind_an_include_or_a_link_outside(tmp_path: Path) -> None:
    tasks, outside = tmp_path / "tasks", tmp_path / "outside"
    for folder in (tasks, outside):
        folder.mkdir()
    (outside / "evil.py").write_text("def run(*a, **k): pass\n")
    (outside / "base.yaml").write_text("process_docs: !function evil.run\n")
    (tasks / "t.yaml").write_text(f"task: t\ninclude: {outside / 'base.yaml'}\n")
    (tasks / "link.py").symlink_to(outside / "evil.py")
    (tasks / "u.yaml").write_text("task: u\nprocess_docs: !function link.run\n")
    (tasks / "own.py").write_text("def run(*a, **k): pass\n")
    (tasks / "v.yaml").write_text("task: v\nprocess_docs: !function own.run\n")
    for name in ("t", "u"):
        with pytest.raises(InputError, match="!function"):
            find(name, [tasks])
    assert find("t", [tasks, outside]).yaml
    before = find("v", [tasks]).fingerprint
    (tasks / "own.py").write_text("def run(*a, **k): return None\n")
    assert find("v", [tasks]).fingerprint != before


def test_code_that_comes_with_a_model(
    call_here: Call, write_suite: WriteSuite, tiny: Path, tmp_path: Path
) -> None:
    model, marker, out = tmp_path / "model", tmp_path / "marker", tmp_path / "out"
    shutil.copytree(tiny, model)
    code = (
        f"open({str(marker)!r}, 'w')\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
    )
    (model / "remote.py").write_text(code)
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "remote.C", "AutoModelForCausalLM": "remote.M"}
    (model / "config.json").write_text(json.dumps(config))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["remote.C", None]}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    suite = write_suite(models=[str(model)], prune={"layers": [2], "solvers": ["uidl"]})
    result = call_here("run", suite, "--out", out)
    assert result.returncode in (0, 2, 3)
    assert "Traceback" not in result.stderr
    assert call_here(
        "prune", model, "--layers", "1", "--solver", "uidl", "--out", tmp_path / "p"
    ).returncode in (0, 2)
    assert not marker.exists()


# ---- secrets

SECRETS = {
    "HF_TOKEN": "hf_" + "Ab1" * 12,
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "OPENAI_API_KEY": "sk-proj-" + "Zz9" * 12,
    "HTTPS_PROXY": "http://someone:correct-horse@proxy.example:3128",
}
LEAKING = """
import os
import sys

def docs(dataset):
    text = " ".join(os.environ.get(name, "") for name in {names})
    print(text)
    print(text, file=sys.stderr)
    os.write(2, text.encode())
    raise RuntimeError("refused with " + text)
"""


def test_secrets_of_the_environment(
    call: Call, write_suite: WriteSuite, task_folder: Path, tmp_path: Path
) -> None:
    """A whole run, with a task whose code prints the environment and fails with it."""
    tasks, out = tmp_path / "tasks", tmp_path / "out"
    shutil.copytree(task_folder, tasks)
    (tasks / "leaking.py").write_text(LEAKING.replace("{names}", repr([*SECRETS])))
    leak = (tasks / "colours.yaml").read_text().replace("task: colours", "task: leak")
    (tasks / "leak.yaml").write_text(leak + "process_docs: !function leaking.docs\n")
    suite = write_suite(
        prune={"layers": [2], "solvers": ["lstsq"]},
        score={"tasks": ["colours", "leak"], "include_path": str(tasks), "batch_tokens": 512},
    )
    result = call("run", suite, "--out", out, env=SECRETS)
    assert result.returncode == 3, result.stderr
    page = call("report", out, "--format", "html", "-o", out / "page.html", env=SECRETS)
    assert page.returncode == 0
    (label,) = [r.label for r in Store(out).all().values() if r.layers]
    card = call("card", f"tiny/2/{label}", "--results", out, "-o", out / "card.md", env=SECRETS)
    assert card.returncode == 0
    reasons = [f.error for r in Store(out).all().values() for f in r.failures]
    assert len(reasons) == 2
    assert all(
        reason.startswith("refused with *** *** *** http://***@proxy.example:3128") for reason in reasons
    )
    files = files_below(out)
    assert {"records", "samples", "edits", "checkpoints", "logs", "page.html", "card.md"} <= {
        name.split("/")[0] for name in files
    }
    assert any(name.endswith("replaceme.json") for name in files)
    assert b"refused" in b"".join(
        content for name, content in files.items() if name.startswith("records/")
    )
    values = [*SECRETS.values(), "correct-horse"]
    for name, content in files.items():
        plain = gzip.decompress(content) if name.endswith(".gz") else content
        for value in values:
            assert value.encode() not in plain, name
    for value in values:
        assert value not in result.stdout + result.stderr


# ---- pipes and full disks of the reader


@pytest.mark.parametrize(
    "words",
    [
        ("report", "results/demo"),
        ("report", "results/demo", "--format", "json"),
        ("compare", "results/demo", "results/demo"),
        ("pick", "results/demo"),
        ("history", "results/demo"),
        ("list", "solvers"),
        ("schema", "suite"),
    ],
    ids=" ".join,
)
def test_reader_that_has_gone_and_reader_that_is_full(command: str, words: tuple[str, ...]) -> None:
    root = Path(__file__).parents[2]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([command, *words], stdout=write, stderr=subprocess.PIPE, text=True, cwd=root)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [command, *words], stdout=full, stderr=subprocess.PIPE, text=True, cwd=root
        )
    assert done.returncode == 2
    assert done.stderr == "Error: standard output cannot be written: No space left on device.\n"


def test_regression_is_told_though_nobody_reads(command: str, demo: Any) -> None:
    base, new = demo("base", "baseline", "6/lstsq"), demo("new", "baseline", "6/lstsq")
    new.flip("6/lstsq", "demo_facts", losses=60)
    read, write = os.pipe()
    os.close(read)
    words = [command, "compare", str(base.folder), str(new.folder)]
    assert subprocess.run(words, stdout=write, stderr=subprocess.PIPE).returncode == 1
    os.close(write)


# ---- numbers


@pytest.mark.parametrize("number", ["1" + "0" * 30, "1" + "0" * 4400, "-" + "9" * 20])
def test_number_too_large_for_any_record(tmp_path: Path, number: str) -> None:
    store = Store(tmp_path)
    record = cells.cell("lstsq", 4, {"x": 0.5})
    store.write("a", record)
    store.write("b", cells.cell("baseline", 0, {"x": 0.5}))
    text = store.path("a").read_text()
    store.path("a").write_text(
        text.replace(f'"parameters": {record.prune.parameters}', f'"parameters": {number}')
    )  # type: ignore[union-attr]
    assert str(store.path("a")) in ends_well("report", tmp_path, codes={2}).stderr
    store.path("a").write_text(text)
    samples = f'{{"task": "x", "samples": {{"doc_id": [0], "acc": [{number}]}}}}'
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "a.jsonl.gz").write_bytes(gzip.compress(samples.encode()))
    assert "a.jsonl.gz" in ends_well("compare", tmp_path, tmp_path, codes={2}).stderr


def test_edit_with_weights_that_are_not_numbers(tmp_path: Path, tiny: Path) -> None:
    import torch

    edit_bytes(tmp_path, {(2, "mlp.down_proj.weight"): torch.full((64, 96), float("nan"))})
    result = ends_well(
        "apply", tmp_path / "edit.safetensors", tiny, "--out", tmp_path / "out", codes={2}
    )
    assert "holds weights that are not numbers" in result.stderr
    assert not (tmp_path / "out").exists()


# ---- names that no file can have


@pytest.mark.parametrize("verb", ["plan", "report", "pick", "history", "card"])
def test_name_longer_than_any_file(verb: str) -> None:
    result = ends_well(verb, "x" * 5000, codes={2})
    assert len(result.stderr) < 12_000


def test_output_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "x" / "record.json", b"")
