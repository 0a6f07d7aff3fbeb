"""A pruned checkpoint on disk and the model that it was made from → a healed checkpoint on disk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from replaceme.calibration import CalibrationData, CalibrationText
from replaceme.checkpoint import Checkpoint
from replaceme.decoder import Decoder
from replaceme.edit import Edit
from replaceme.errors import InputError
from replaceme.facts import HealFacts
from replaceme.healing.examples import read_healing_text
from replaceme.healing.heal import Healed, heal
from replaceme.healing.need import Sizes, check_need
from replaceme.healing.options import HealOptions
from replaceme.healing.pair import Pair
from replaceme.healing.places import Places
from replaceme.io import loading, models
from replaceme.io.outfolder import PROVENANCE, check_apart, check_free
from replaceme.io.saved import SavedLayers
from replaceme.io.yaml_source import check_options
from replaceme.provenance import Provenance
from replaceme.recipe import digest
from replaceme.report import Watcher
from replaceme.selection import Block

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class HealedCheckpoint:
    """What was written.

    Attributes:
        out: the folder of the checkpoint.
        provenance: what ``replaceme.json`` says.
        facts: what was trained on what, and what came of it.
        summary: the same for a person to read.
    """

    out: Path
    provenance: Provenance
    facts: HealFacts
    summary: str


def heal_checkpoint(
    checkpoint: str | Path, out: str | Path, *, teacher: str | Path, **options: Any
) -> HealedCheckpoint:
    """Train a pruned checkpoint for a while: toward the predictions of the model it was made from, or,
    with ``objective="sft"``, on data.

    What is written is an ordinary checkpoint of the same shape; it is loaded again and must predict what
    was measured. A training that is interrupted goes on when the same is asked for again.

    Args:
        checkpoint: folder that :func:`replaceme.prune_checkpoint` or a run wrote.
        out: folder of the healed checkpoint.
        teacher: the intact model: hub id, folder, GGUF file, or package:NAME/FILE.gguf.
        options: fields of :class:`replaceme.HealOptions`, such as ``tokens="200k"``, ``train="mlp"`` or
            ``calibration="chat.jsonl"``.

    Raises:
        InputError: an option is wrong, the teacher is another model, or there is too little text.
        OutputError: the output cannot be written.
    """
    named = {"checkpoint": str(checkpoint), "out": out, "teacher": str(teacher)}
    return heal_as_told(check_options(HealOptions, named | options))


def heal_as_told(options: HealOptions, watcher: Watcher | None = None) -> HealedCheckpoint:
    """:func:`heal_checkpoint` with options that are checked already."""
    watcher, out, code = watcher or Watcher(), options.out, options.trust_remote_code
    check_free(out, options.overwrite)
    source = Checkpoint.open(options.checkpoint, trust_remote_code=code)
    provenance = _read_provenance(source.folder)
    teacher = Checkpoint.open(options.teacher, options.revision, code)
    check_alike(source, teacher)
    check_apart(source.folder, out)
    check_apart(teacher.folder, out)
    device = options.device or loading.default_device()
    watcher.step("reading the text")
    settings = options.settings
    text = read_healing_text(source, settings, settings.text(CalibrationData()), options.date)
    blocks, longest = [Block(*block) for block in provenance.blocks], max(map(len, text.sequences))
    half = loading.training_dtype(loading.checkpoint_dtype(source.folder), device) != "float32"
    need = Sizes.of(teacher).compute_need(options, longest, blocks, half, device)
    check_need(need, options, device)
    watcher.step("loading both models")
    state = out.resolve().with_name(f".{out.name}.healing.safetensors")
    with loading.enough_memory():
        pair, tokenizer = load_pair(source, teacher, provenance, device)
        watcher.step("training")
        places = Places(pair.student.architecture, _saved(source), range(len(pair.kept)))
        known = [models.fingerprint(c.name, c.revision, c.folder) for c in (source, teacher)]
        said = [*known, text.hash, options.parameters(), device]
        healed = heal(
            pair,
            text,
            options,
            places,
            tokenizer=tokenizer,
            state=state,
            key=digest(said),
            report=watcher.share,
        )
    del pair
    watcher.step("saving")
    made = provenance.model_copy(update={"healed": [*provenance.healed, healed.facts]})
    source.write(
        places.edit(healed.values),
        out,
        made,
        overwrite=options.overwrite,
        confirm=partial(source.confirm, expected=healed.expected, device=device),
    )
    state.unlink(missing_ok=True)
    return HealedCheckpoint(out, made, healed.facts, _tell(text, healed, out))


def check_alike(source: Checkpoint, teacher: Checkpoint) -> None:
    """Refuse a teacher of another family, or with another tokenizer.

    Raises:
        InputError: naming both.
    """
    kinds = [models.read_config(c.folder)["model_type"] for c in (source, teacher)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"checkpoint {source.name!r} is of the family {kinds[0]}, and the teacher {teacher.name!r} "
            f"of {kinds[1]}; the teacher is the model that the checkpoint was pruned from."
        )
    one, two = (
        loading.load_tokenizer(c.folder, c.trust_remote_code).get_vocab() for c in (source, teacher)
    )
    if one != two:
        raise InputError(
            f"checkpoint {source.name!r} and teacher {teacher.name!r} have different tokenizers; the "
            f"teacher is the model that the checkpoint was pruned from."
        )


def load_pair(
    source: Checkpoint, teacher: Checkpoint, provenance: Provenance, device: str
) -> tuple[Pair, PreTrainedTokenizerBase]:
    """Both models in memory, and their tokenizer.

    Both are taken to the dtype of the checkpoint, in which they are the same where nothing was changed.

    Raises:
        InputError: the checkpoint was not pruned from the teacher.
    """
    import torch

    own = loading.checkpoint_dtype(source.folder)
    fast = loading.training_dtype(own, device)
    (intact, tokenizer), (student, _) = teacher.load(own, device), source.load(own, device)
    blocks = tuple(Block(*block) for block in provenance.blocks)
    pair = Pair.of_models(Decoder.of(intact), student, Edit(blocks))
    if fast != own:  # wider; a model that is taken to bfloat16 loses digits of its rotary frequencies
        for model in (intact, student):
            model.to(getattr(torch, fast))
    return pair, tokenizer


def _saved(source: Checkpoint) -> SavedLayers:
    return SavedLayers.of(source.folder, source.architecture)


def _read_provenance(folder: Path) -> Provenance:
    """What a checkpoint says of itself.

    Raises:
        InputError: nothing, or nothing that can be read.
    """
    path = folder / PROVENANCE
    try:
        return Provenance.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise InputError(
            f"{folder} has no {PROVENANCE} that tells which layers were removed; heal a checkpoint that "
            f"'prune' or 'run' wrote."
        ) from None


def _tell(text: CalibrationText, healed: Healed, out: Path) -> str:
    """What was done, for a person to read."""
    facts = healed.facts
    name, judged = facts.judged
    before, after = (f"{value:.4f}" for value in judged if value is not None)
    layers = facts.shared_layers
    shared = f"; {layers} layers were run once for both models" if layers else ""
    lines = [text.rows.notice()] if text.rows else []
    lines.append(
        f"Trained {facts.training['train']} by {facts.objective}, {facts.numbers:,} numbers, on "
        f"{facts.tokens:,} tokens in {facts.seconds:,.0f} seconds{shared}."
    )
    lines.append(
        f"{name[0].upper()}{name[1:]} on {facts.held_back_tokens:,} held-back tokens: {before} → "
        f"{after} nats per token."
    )
    if facts.loss:
        lines.append("Loss of all of them: {:.4f} → {:.4f} nats per token.".format(*facts.loss))
    lines += [f"Warning: {facts.warning}."] if facts.warning else []
    return "\n".join([*filter(None, lines), f"Wrote {out}."])
