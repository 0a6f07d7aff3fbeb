"""A training as a file, from which it goes on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from replaceme.errors import OutputError
from replaceme.facts import HealPoint

METADATA = "healing"
CURVE = TypeAdapter(list[HealPoint])


@dataclass
class State:
    """How far training has come.

    Attributes:
        steps, tokens, seconds: done.
        rate: learning rate of the last step.
        loss: sum over the ``since`` tokens learnt since the last check, in nats.
        curve: a point for each check.
        best: parameters of the best check; ``None``: the start.
    """

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    rate: float | None = None
    loss: float = 0.0
    since: int = 0
    curve: list[HealPoint] = field(default_factory=list)
    best: dict[str, Tensor] | None = None


def save_state(
    path: Path,
    key: str,
    state: State,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write all that training goes on from.

    Args:
        key: identity of what is trained.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {f"now.{name}": parameter.detach() for name, parameter in parameters.items()}
    tensors |= {f"best.{name}": values for name, values in (state.best or {}).items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": values for name, values in moments.items()}
    said = {
        "key": key,
        "steps": state.steps,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "rate": state.rate,
        "loss": state.loss,
        "since": state.since,
        "curve": CURVE.dump_python(state.curve, mode="json"),
    }
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {name: values.cpu().contiguous() for name, values in tensors.items()}
        save_file(whole, part, metadata={METADATA: json.dumps(said)})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} cannot be written: {reason}.") from error
    finally:
        part.unlink(missing_ok=True)


def load_state(
    path: Path | None,
    key: str,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    most: float,
) -> State | None:
    """Go on from a file, if there is one of the same training: parameters and optimizer are set.

    Args:
        most: tokens; a file of a training that is further is not read.
    """
    from safetensors import SafetensorError, safe_open

    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {})[METADATA])
            if said.pop("key") != key or said["tokens"] > most:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        curve = CURVE.validate_python(said.pop("curve"))
        now = {name: tensors.pop(f"now.{name}") for name in parameters}
        best = {name: tensors.pop(f"best.{name}") for name in parameters if f"best.{name}" in tensors}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, values in tensors.items():
            _, number, rest = name.split(".")
            moments.setdefault(int(number), {})[rest] = values
        state = State(**said, curve=curve, best=best or None)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return None
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    for name, parameter in parameters.items():
        parameter.data.copy_(now[name])
    return state
