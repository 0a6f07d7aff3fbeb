"""A model, from its name to pruned checkpoints: the one way, for the library and for every command.

source = Checkpoint.open("org/model")
text = source.read_text(CalibrationData())
session = source.calibrate(text, counts=[4, 8], solvers=[solver])
variant = session.fit(solver, 4)
expected = source.expect(session, variant)
del session  # one model at a time in memory
source.write(variant.fit.edit, out, source.trace(variant))
source.confirm(out, expected)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaceme.architectures import Architecture, architecture_of, check_present, layer_count
from replaceme.calibration import Batches, CalibrationData, CalibrationText, padding_token, read_text
from replaceme.chat import USUAL_DAY
from replaceme.errors import InputError
from replaceme.io import contents, loading, matching, models
from replaceme.report import Report, no_report
from replaceme.selection import Block, check_blocks, check_count
from replaceme.selectors import Selection

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from replaceme.calibrating import Calibrated, Calibrator
    from replaceme.edit import Edit
    from replaceme.provenance import Provenance
    from replaceme.reload import Expected
    from replaceme.room import Room
    from replaceme.session import Session, Variant
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
        config, where = models.read_config(folder), f"model {name!r}"
        architecture = architecture_of(config, where, folder, trust_remote_code)
        check_present(architecture, config, where, contents.tensor_names(folder))
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

    def read_text(
        self, data: CalibrationData, day: date = USUAL_DAY, compat_reference: bool = False
    ) -> CalibrationText:
        """The calibration tokens of a data set, by the checkpoint's tokenizer.

        Args:
            day: today, for a chat template that asks.
            compat_reference: padding counts, as in the published code.

        Raises:
            InputError: the data cannot be read, or cannot be used.
        """
        tokenizer = loading.load_tokenizer(self.folder, self.trust_remote_code)
        pad = padding_token(tokenizer) if compat_reference else None
        return replace(read_text(data, tokenizer, day), counted_pad=pad)

    def load(
        self, dtype: str | None = None, device: str = "cpu", four_bits: bool = False
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Model and tokenizer, see :func:`replaceme.io.loading.load`."""
        return loading.load(self.folder, dtype, device, self.trust_remote_code, four_bits)

    def load_within(
        self, memory: int | None, dtype: str | None = None, device: str = "cpu"
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Room]:
        """Model, tokenizer, and room for states, see :func:`replaceme.memory.load_within`."""
        from replaceme.memory import load_within

        return load_within(self.folder, self.architecture, dtype, device, self.trust_remote_code, memory)

    def load_by_layers(
        self, memory: int, passing: int, dtype: str | None = None, device: str = "cpu"
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Room]:
        """The same with layers brought one by one, see :func:`replaceme.memory.load_by_layers`."""
        from replaceme.memory import load_by_layers

        code = self.trust_remote_code
        return load_by_layers(self.folder, self.architecture, dtype, device, code, memory, None, passing)

    def load_calibrator(
        self,
        text: CalibrationText,
        *,
        solvers: Iterable[Solver],
        counts: Iterable[int] = (),
        blocks: Iterable[tuple[Block, ...]] = (),
        selection: Selection | None = None,
        batch_size: int = 8,
        dtype: str | None = None,
        device: str = "cpu",
        memory: int | None = None,
        compat_reference: bool = False,
    ) -> Calibrator:
        """Load the model to calibrate it for all its variants together.

        Args:
            text: what :meth:`read_text` gives.
            dtype: to load the model in; ``None``: its own.
            device: a torch device, or ``auto`` to spread the layers over all GPUs.
            memory: bytes of it that may be taken; a larger model is read layer by layer.
            solvers, counts, blocks, selection, compat_reference: see :func:`replaceme.calibrate`.

        Raises:
            InputError: it cannot be loaded, or a variant cannot be made.
        """
        from replaceme.calibrating import Calibrator

        with loading.enough_memory():
            model, tokenizer, room = self.load_within(memory, dtype, device)
            return Calibrator(
                model,
                Batches(
                    text.sequences,
                    batch_size,
                    text.data.seed if text.data else 42,
                    padding_token(tokenizer),
                ),
                counts=counts,
                blocks=blocks,
                solvers=solvers,
                selection=selection or Selection(),
                compat_reference=compat_reference,
                room=room,
            )

    def calibrate(
        self, text: CalibrationText, *, report: Report = no_report, **settings: Any
    ) -> Session:
        """Load the model and calibrate it for all its variants together.

        Args:
            text, settings: see :meth:`load_calibrator`.
            report: see :func:`replaceme.calibrate`.

        Raises:
            InputError: see there, or its states are not numbers.
        """
        from replaceme.session import Session

        calibrator = self.load_calibrator(text, **settings)
        with loading.enough_memory():
            calibration = calibrator.calibrate(report)
        self.check_finite(calibration)
        return Session(calibration, text, calibrator.selection)

    def check_finite(self, found: Calibrated) -> None:
        """Refuse a model whose states are not numbers.

        Raises:
            InputError: they are not.
        """
        if not found.is_finite():
            raise InputError(
                f"model {self.name!r}: its states on the calibration text are not numbers; its weights "
                f"hold NaN or infinity, or the dtype that it is calibrated in is too narrow for them."
            )

    def expect(self, session: Session, variant: Variant, dtype: str | None = None) -> Expected:
        """What a checkpoint of a variant is to predict; read from the session's model.

        Args:
            dtype: what the checkpoint is cast to; ``None``: nothing.
        """
        from replaceme.io.saved import SavedLayers
        from replaceme.reload import Expected

        saved = SavedLayers.of(self.folder, self.architecture, dtype)
        return Expected.of(session.calibration, variant.fit, saved)

    def trace(self, variant: Variant, dtype: str | None = None) -> Provenance:
        """Where a checkpoint of a variant comes from, cast to ``dtype``."""
        weights = models.fingerprint(self.name, self.revision, self.folder)
        return variant.trace(self.name, weights, dtype)

    def write(
        self,
        edit: Edit,
        out: Path,
        provenance: Provenance | None,
        *,
        dtype: str | None = None,
        overwrite: bool = False,
        confirm: Callable[[Path], object] | None = None,
    ) -> None:
        """Write the checkpoint, edited, see :func:`replaceme.write_checkpoint`."""
        from replaceme.surgery import write_checkpoint

        write_checkpoint(
            self.folder,
            out,
            edit,
            provenance,
            dtype=dtype,
            overwrite=overwrite,
            trust_remote_code=self.trust_remote_code,
            confirm=confirm,
        )

    def confirm(
        self,
        folder: Path,
        expected: Expected,
        device: str = "cpu",
        memory: int | None = None,
    ) -> float | None:
        """Load a checkpoint that was written, and compare what it predicts, see
        :func:`replaceme.reload.compare_reloaded`."""
        from replaceme.reload import compare_reloaded

        return compare_reloaded(folder, expected, device, self.trust_remote_code, memory)

    def confirm_edit(self, folder: Path, edit: Edit, dtype: str | None = None) -> float | None:
        """The same where nothing is expected yet: the intact model is loaded, edited, and asked for
        tokens drawn at random."""
        from replaceme.reload import Expected

        expected = Expected.of_random_tokens(self.folder, edit, dtype, self.trust_remote_code)
        return self.confirm(folder, expected)
