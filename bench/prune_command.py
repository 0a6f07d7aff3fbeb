"""``replaceme-bench prune``: one checkpoint, without the harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import environment
from replaceme.calibration import Batches, CalibrationData, load_sequences
from replaceme.errors import InputError
from replaceme.selection import Block
from replaceme.solvers import make_solver


def prune_checkpoint(
    model: str,
    *,
    layers: int | None,
    blocks: str | None,
    solver: str,
    out: Path,
    selector: str,
    calibration: str,
    column: str,
    samples: int,
    max_length: int,
    batch_size: int,
    dtype: str | None,
    device: str | None,
    ridge: float | None,
    seed: int,
    compat: str | None,
    overwrite: bool,
) -> str:
    """Prune ``model`` into the folder ``out``; the options are those of the command.

    Returns:
        What was done, for a person to read.

    Raises:
        InputError: an option is wrong, or the model cannot be pruned.
        OutputError: ``out`` cannot be written.
    """
    if (layers is None) == (blocks is None):
        raise InputError("give either --layers N or --blocks START:END.")
    if ridge is not None and solver != "lstsq":
        raise InputError(f"--ridge belongs to the solver lstsq, not to {solver!r}.")
    parameters = {} if ridge is None else {"ridge": ridge}
    chosen_solver = make_solver(solver, **parameters)
    data = CalibrationData(
        dataset=calibration, column=column, samples=samples, max_length=max_length, seed=seed
    )
    data.local_file()
    from replaceme import fit, models, surgery
    from replaceme.architectures import architecture_of
    from replaceme.pruning import calibrate
    from replaceme.selection import check_count

    surgery.check_free(out, overwrite)
    source = models.locate(model)
    config = models.read_config(source)
    architecture_of(config, f"model {model!r}")
    num_layers = config["num_hidden_layers"]
    block = Block.parse(blocks, num_layers) if blocks else None
    if layers is not None:
        check_count(layers, num_layers, "--layers")
    loaded, tokenizer = models.load(source, dtype, device or models.default_device())
    result = calibrate(
        loaded,
        Batches(load_sequences(data, tokenizer), batch_size, seed),
        counts=[layers] if layers is not None else [],
        blocks=[block] if block else [],
        solvers=[chosen_solver],
        compat_reference=compat == "reference",
    )
    choice = result.choices.get(layers) if layers is not None else None
    chosen = choice.block if choice else block
    assert chosen is not None
    found = fit(chosen_solver, result.moments[chosen], seed)
    provenance: dict[str, Any] = {
        "model": model,
        "weights": models.fingerprint(model),
        "removed_layers": list(chosen),
        "selector": selector if choice else None,
        "solver": {"name": solver, "parameters": chosen_solver.model_dump(mode="json")},
        "calibration": data.model_dump() | {"fingerprint": data.fingerprint(), "tokens": result.tokens},
        "environment": environment.describe(),
    }
    surgery.write_checkpoint(
        source, out, chosen, found.transform, provenance, dtype=dtype, overwrite=overwrite
    )
    lines = [f"Removed layers {chosen} (0-based, the end stays) of {num_layers}."]
    if choice:
        lines[0] += f" Angular distance {choice.distance:.4f}"
        if choice.runner_up and choice.runner_up_distance is not None:
            lines[0] += f"; next best {choice.runner_up} at {choice.runner_up_distance:.4f}"
        lines[0] += "."
    lines.append(
        f"Fit on {result.tokens:,} tokens: relative error {_change(found.relative_error)}, "
        f"mean cosine {_change(found.mean_cosine)}."
    )
    if found.warning:
        lines.append(f"Warning: {found.warning}.")
    return "\n".join([*lines, f"Wrote {out}."])


def _change(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4f} → {pair[1]:.4f}"
