"""What a YAML of the published commands can say, with the published defaults."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from replaceme.calibration import PICKLES, CalibrationData
from replaceme.errors import InputError
from replaceme.selection import Block
from replaceme.solvers import Cosine, Lstsq, Solver, Uidl

Method = Literal["lstsq", "cosine", "uidl"]

ORCA = "Open-Orca/SlimOrca"
FINEWEB = "HuggingFaceFW/fineweb"
MIXED = "fineweb_and_orca"
LONGEST_NAME = 220  # of 255 bytes; the rest is for temporary names beside it
SUBSETS = {FINEWEB: "sample-10BT", "allenai/c4": "en", "wikitext": "wikitext-2-raw-v1"}


def few_shots(tasks: Any) -> dict[str, int | None] | None:
    """Task → number of examples, ``None`` for the task's own; ``None`` alone: the paper's tasks.

    Raises:
        ValueError: neither ``default``, nor a list of names, nor names with ``{fewshots: NUMBER}``.
    """
    if tasks is None or tasks == "default":
        return None
    if isinstance(tasks, list) and tasks and all(isinstance(name, str) for name in tasks):
        return dict.fromkeys(tasks)
    if not isinstance(tasks, dict) or not tasks:
        raise ValueError("allowed are default, a list of names, and names with {fewshots: NUMBER}")
    for name, settings in tasks.items():
        count = settings.get("fewshots") if isinstance(settings, dict) else None
        if type(count) is not int or count < 0 or settings.keys() != {"fewshots"}:
            raise ValueError(f"{name} is to have {{fewshots: NUMBER}}, and nothing else")
    return {name: settings["fewshots"] for name, settings in tasks.items()}


class SeedConfig(BaseModel):
    """What a YAML of the published commands says."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    method: Literal["lstsq", "cosine"] | None = Field(None, description="of run_replaceme")
    model_path: str = Field(description="hub id, folder, GGUF file, or package:NAME/FILE.gguf")
    dataset: str = Field(
        description="hub id, fineweb_and_orca, builtin:prose, or a .jsonl, .parquet or .txt file"
    )
    dataset_column: str = Field("text", description="column with the texts")
    dataset_size: int | None = Field(None, gt=0, description="first rows to use; null: all")
    dataset_subset: str = Field("eval", description="split of a hub data set")
    batch_size: int = Field(gt=0, description="texts per forward")
    max_length: int = Field(gt=1, description="tokens of a text at most")
    layers_to_skip: int = Field(gt=0, description="layers of a block")
    num_A: int = Field(1, gt=0, description="blocks to remove; fewer where there is no room")  # noqa: N815
    merge_consecutive: bool = Field(True, description="fit blocks that touch as one")
    alpha: float = Field(0.0, ge=0, description="lstsq: ridge, absolute, toward zero; not with diag")
    diag: bool = Field(False, description="a diagonal transform")
    thri: bool = Field(False, description="cosine: a triangular transform")
    two_vectors: bool = Field(False, description="cosine: the outer product of two vectors")
    loss: Literal["cosine", "mse", "elasticnet"] = Field("cosine", description="of method cosine")
    solver: Literal["adam", "cg", "l-bfgs", "trust-ncg"] = Field(
        "adam", description="of method cosine; adam alone is supported"
    )
    accurate: bool = Field(False, description="cosine: the angle of the states themselves")
    use_4bit: bool = Field(
        False, description="take the statistics from the model in 4 bits (bitsandbytes, NF4)"
    )
    min_distance_layer: int | None = Field(
        None, ge=1, description="first layer that may be removed; the published code ignores it"
    )
    distances_path: Path | None = Field(
        None,
        description="JSON list of distances: read if there, else written; for a .pth the .json beside "
        "it; null: computed anew",
    )
    save_path: str | None = Field(None, description="start of the output folder's name")
    save_transform_only: bool = Field(False, description="save the transform as well, in a file")
    activations_save_path: str | None = Field(
        None, description="without effect, as in the published code: activations are not kept"
    )
    token: SecretStr | None = Field(None, description="of the hub, to download the model; not recorded")
    tasks: dict[str, int | None] | None = Field(
        None, description="task → fewshots, for evaluate_model; default or null: the paper's tasks"
    )
    compat: Literal["reference"] | None = Field(
        "reference", description="null: padding does not count, and so on"
    )

    @field_validator("token", mode="before")
    @classmethod
    def _secret(cls, token: Any) -> Any:
        if token is not None and not isinstance(token, str):  # a message must not show the value
            raise PydanticCustomError("value_error", "should be a text; write it in quotes")
        return token

    @field_validator("tasks", mode="before")
    @classmethod
    def _few_shots(cls, tasks: Any) -> Any:
        return few_shots(tasks)

    @field_validator("solver")
    @classmethod
    def _adam(cls, solver: str) -> str:
        if solver != "adam":
            raise ValueError(
                f"{solver} is not supported, of the published solvers only adam is; the same objective "
                f"without a learning rate is the method irls of 'replaceme-bench prune'."
            )
        return solver

    @field_validator("distances_path")
    @classmethod
    def _no_pickle(cls, path: Path | None) -> Path | None:
        if path is not None and path.suffix in PICKLES and path.exists():
            instead = path.with_suffix(".json")
            if not instead.exists():
                raise ValueError(
                    f"{path} is a pickle, which can run code when it is read, and is not; delete it to "
                    f"compute the distances, or write its list to {instead}"
                )
        return path

    @property
    def distances_file(self) -> Path | None:
        """Where the distances are read or written."""
        path = self.distances_path
        return path.with_suffix(".json") if path is not None and path.suffix in PICKLES else path

    @property
    def data(self) -> CalibrationData:
        return CalibrationData(
            dataset=self.dataset,
            subset=SUBSETS.get(self.dataset),
            split="train" if self.dataset == ORCA else self.dataset_subset,
            column="conversations" if self.dataset == ORCA else self.dataset_column,
            samples=self.dataset_size or sys.maxsize,
            max_length=self.max_length,
        )

    def make_solver(self, method: Method, tokens: int) -> Solver:
        """The solver of a method; one that descends does so over all ``tokens``."""
        if method == "uidl":
            return Uidl()
        if method == "lstsq":
            return Lstsq(alpha=0.0 if self.diag else self.alpha, diagonal=self.diag)
        shapes = {"diagonal": self.diag, "outer": self.two_vectors, "triangular": self.thri}
        shape = next((name for name, wanted in shapes.items() if wanted), "full")
        return Cosine(exact=self.accurate, shape=shape, loss=self.loss, tokens=tokens)

    def folder(self, method: Method, blocks: tuple[Block, ...]) -> Path:
        """The output folder, named as the published code names it.

        Without ``save_path`` a name says all blocks of ``lstsq``; the other methods, which prune one
        block after the other, name each folder after the one before.

        Raises:
            InputError: the name is too long for a file system.
        """
        ending = {
            "uidl": "UIDL",
            "lstsq": f"ReplaceMe_lstsq_{self.num_A}",
            "cosine": f"ReplaceMe_{self.loss}_{self.solver}",
        }[method]
        if self.save_path is not None:
            return Path(f"{self.save_path}_{ending}").expanduser()
        data = "" if method == "uidl" else f"_{self.dataset}_{self.dataset_size}"
        names = [f"{block.start}_{block.end}" for block in blocks]
        path = self.model_path
        for layers in ["__".join(names)] if method == "lstsq" else names:
            name = f"{path}_{self.layers_to_skip}_layers_{layers}{data}".replace("/", "_")
            path = f"output_models/{name}_{ending}"
        if (size := len(Path(path).name.encode())) > LONGEST_NAME:
            raise InputError(
                f"save_path: without one the output folder's name has {size} bytes, and a file system "
                f"takes {LONGEST_NAME}; give the start of its name."
            )
        return Path(path)
