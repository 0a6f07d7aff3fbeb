"""What a YAML of the published commands can say, with the published defaults."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from replaceme.calibration import PICKLES, CalibrationData
from replaceme.selection import Block
from replaceme.solvers import Cosine, Lstsq, Solver, Uidl

Method = Literal["lstsq", "cosine", "uidl"]

ORCA = "Open-Orca/SlimOrca"
FINEWEB = "HuggingFaceFW/fineweb"
MIXED = "fineweb_and_orca"
SUBSETS = {FINEWEB: "sample-10BT", "allenai/c4": "en", "wikitext": "wikitext-2-raw-v1"}


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
    use_4bit: bool = Field(False, description="not supported")
    min_distance_layer: int | None = Field(
        None, ge=1, description="first layer that may be removed; the published code ignores it"
    )
    distances_path: Path | None = Field(
        None, description="JSON list of distances: read if there, else written; null: computed anew"
    )
    save_path: str | None = Field(None, description="start of the output folder's name")
    save_transform_only: bool = Field(False, description="save the transform as well, in a file")
    tasks: Any = Field(None, description="ignored: replaceme-bench run scores models")
    compat: Literal["reference"] | None = Field(
        "reference", description="null: padding does not count, and so on"
    )

    @field_validator("use_4bit")
    @classmethod
    def _unquantised(cls, use_4bit: bool) -> bool:
        if use_4bit:
            raise ValueError(
                "not supported: it takes a library for GPUs, and a transform cannot be merged into "
                "4-bit weights; say false, and the model is calibrated in float32."
            )
        return use_4bit

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
        if path is not None and path.suffix in PICKLES:
            raise ValueError(
                f"{path} is a pickle, which can run code when it is read; name a .json file, which is "
                f"written where it does not exist."
            )
        return path

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
        """The output folder, named as the published code names it."""
        ending = {
            "uidl": "UIDL",
            "lstsq": f"ReplaceMe_lstsq_{self.num_A}",
            "cosine": f"ReplaceMe_{self.loss}_{self.solver}",
        }[method]
        if self.save_path is not None:
            return Path(f"{self.save_path}_{ending}").expanduser()
        layers = "__".join(f"{block.start}_{block.end}" for block in blocks)
        data = "" if method == "uidl" else f"_{self.dataset}_{self.dataset_size}"
        name = f"{self.model_path}_{self.layers_to_skip}_layers_{layers}{data}_{ending}"
        return Path("output_models") / name.replace("/", "_")
