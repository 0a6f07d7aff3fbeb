"""What a step of a recipe is."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


def digest(identity: Any) -> str:
    """Short stable hash of what JSON can hold."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Part(BaseModel):
    """A part of an identity. What was not said stays unsaid when it is written, so that a field that is
    added later changes neither old records nor their hashes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer(mode="wrap")
    def _as_said(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key in self.model_fields_set}

    def canonical(self) -> dict[str, Any]:
        """The same as JSON."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """Short stable hash."""
        return digest(self.canonical())

    def __hash__(self) -> int:
        return hash(self.digest)


class Step(Part, ABC):
    """One step: a model goes in, a model comes out.

    A new step is one file with its class, and an entry in ``STEPS``.

    Attributes:
        verb: of ``replaceme-bench``, which does the step.
    """

    kind: ClassVar[str]
    verb: ClassVar[str] = "prune"

    @model_serializer(mode="wrap")
    def _as_said(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        said = {key: value for key, value in write(self).items() if key in self.model_fields_set}
        return {"kind": self.kind, **said}

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The keys and values of its verb's ``--config`` that repeat the step."""

    @abstractmethod
    def words(self) -> str:
        """What the step does, for a table or a title."""
