"""Solvers: moments of a block → the transform T that stands in for it. One file per solver.

Importing the registry is cheap: torch is loaded when a solver runs, so that a suite can be checked
and solvers listed without it.
"""

from typing import Any

from replaceme.errors import InputError, nearest
from replaceme.solvers.base import Solver
from replaceme.solvers.cosine import Cosine
from replaceme.solvers.lstsq import Lstsq
from replaceme.solvers.uidl import Uidl

SOLVERS: dict[str, type[Solver]] = {solver.name: solver for solver in (Uidl, Lstsq, Cosine)}

__all__ = ["SOLVERS", "Cosine", "Lstsq", "Solver", "Uidl", "make_solver"]


def make_solver(name: str, **parameters: Any) -> Solver:
    """The solver ``name`` with ``parameters``.

    Raises:
        InputError: no such solver.
        pydantic.ValidationError: unknown parameter, or a value out of range.
    """
    if name not in SOLVERS:
        raise InputError(
            f"unknown solver {name!r}{nearest(name, list(SOLVERS))} Solvers are {', '.join(SOLVERS)}."
        )
    return SOLVERS[name](**parameters)
