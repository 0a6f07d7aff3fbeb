"""A model, from its name to pruned checkpoints: the one way, for the library and for every command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from replaceme.architectures import Architecture, architecture_of, check_present, layer_count
from replaceme.errors import InputError
from replaceme.io import contents, matching, models
from replaceme.selection import Block, check_blocks, check_count

if TYPE_CHECKING:
    from replaceme.solvers.base import Solver


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine, of which config and headers were read; no weights are loaded.

    Attributes:
        name: as the user says it: hub id, folder, GGUF file, or package:NAME/FILE.gguf.
        folder: where its files lie.
        architecture: of its family.
        layers: number of its decoder layers.
        revision: of a hub model.
        trust_remote_code: run code that comes with it.
    """

    name: str
    folder: Path
    architecture: Architecture
    layers: int
    revision: str | None = None
    trust_remote_code: bool = False

    @classmethod
    def open(
        cls,
        name: str,
        revision: str | None = None,
        trust_remote_code: bool = False,
        token: str | None = None,
    ) -> Checkpoint:
        """A model ready to be pruned; it is downloaded or converted where necessary.

        Args:
            token: of the hub; ``None``: the one that the machine has, if any.

        Raises:
            InputError: it cannot be had, is not supported, or lacks weights.
        """
        folder = models.locate(name, revision, trust_remote_code, token)
        checkpoint = cls.read(name, folder, revision, trust_remote_code)
        checkpoint.check_complete()
        return checkpoint

    @classmethod
    def find(
        cls, name: str, revision: str | None = None, trust_remote_code: bool = False
    ) -> Checkpoint | None:
        """The same if it is on this machine already; nothing is downloaded, converted or loaded.

        Raises:
            InputError: a local name that means nothing, or a damaged or unsupported checkpoint.
        """
        folder = models.known_folder(name)
        if folder is None:
            return None
        models.check_folder(folder, name)
        return cls.read(name, folder, revision, trust_remote_code)

    @classmethod
    def read(
        cls, name: str, folder: Path, revision: str | None = None, trust_remote_code: bool = False
    ) -> Checkpoint:
        """The checkpoint in a folder, by its config and its headers.

        Raises:
            InputError: its family is not supported, or a layer is missing.
        """
        config, where, names = (
            models.read_config(folder),
            f"model {name!r}",
            contents.tensor_names(folder),
        )
        architecture = architecture_of(config, where, names)
        check_present(architecture, config, where, names)
        return cls(name, folder, architecture, layer_count(config), revision, trust_remote_code)

    def check_complete(self) -> None:
        """Refuse a model that transformers would fill up with random numbers.

        Raises:
            InputError: naming the tensors.
        """
        matching.check_complete(self.folder, self.name, self.trust_remote_code)

    def check(
        self,
        solver: Solver,
        count: int = 0,
        blocks: Sequence[Block] = (),
        num_blocks: int = 1,
        key: str = "layers",
    ) -> None:
        """Refuse a variant that cannot be made.

        Args:
            count: layers to remove, where no ``blocks`` are given.
            num_blocks: in how many blocks of the same size.
            key: what the user calls the layer count.

        Raises:
            InputError: naming the model, and the count, block or solver that does not fit it.
        """
        where = f"model {self.name!r}"
        if not blocks:
            check_count(count, self.layers, f"{key}, {where}", num_blocks)
        try:
            solver.check(self.architecture)
            check_blocks(blocks, self.layers)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
