"""Solvers: statistics of the calibration → new weights. One file a solver; lying here registers it.

Importing the registry is cheap: torch is loaded when a solver runs, so that a suite can be checked
and solvers listed without it.
"""

from typing import Any

from pydantic import ValidationError

from replaceme.errors import InputError, nearest
from replaceme.registry import collect_classes
from replaceme.solvers.base import LayerSize, Solver
from replaceme.solvers.cosine import Cosine
from replaceme.solvers.lstsq import Lstsq
from replaceme.solvers.reconstruct import Reconstruct
from replaceme.solvers.refit import Refit
from replaceme.solvers.relative import Relative
from replaceme.solvers.uidl import Uidl

SOLVERS: dict[str, type[Solver]] = collect_classes(__name__, __path__, Solver)

__all__ = [
    "SOLVERS",
    "Cosine",
    "LayerSize",
    "Lstsq",
    "Reconstruct",
    "Refit",
    "Relative",
    "Solver",
    "Uidl",
    "make_solver",
]


def make_solver(name: str, **parameters: Any) -> Solver:
    """The solver ``name`` with ``parameters``.

    Raises:
        InputError: no such solver, no such parameter, or a value out of range.
    """
    if name not in SOLVERS:
        raise InputError(
            f"unknown solver {name!r}{nearest(name, list(SOLVERS))} Solvers are {', '.join(SOLVERS)}."
        )
    try:
        return SOLVERS[name](**parameters)
    except ValidationError as error:
        raise InputError(_parameter_message(name, error)) from None


def _parameter_message(name: str, error: ValidationError) -> str:
    problem = error.errors()[0]
    if not problem["loc"]:
        return f"solver {name!r}: {problem['msg'].removeprefix('Value error, ')}"
    key, allowed = str(problem["loc"][0]), list(SOLVERS[name].model_fields)
    if problem["type"] == "extra_forbidden":
        known = ", ".join(allowed) or "none"
        return f"solver {name!r} has no parameter {key!r}{nearest(key, allowed)} It has {known}."
    return f"solver {name!r}, parameter {key}: {problem['msg']}; got {problem['input']!r}."
