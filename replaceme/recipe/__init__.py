"""Recipes: what is made of a model, as a list of typed steps. One file a step, one registry."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, SerializeAsAny

from replaceme.recipe.heal import HealStep
from replaceme.recipe.prune import LOCAL, CalibrationSettings, PruneStep, SolverSettings
from replaceme.recipe.step import Part, Step, digest

STEPS: dict[str, type[Step]] = {step.kind: step for step in (PruneStep, HealStep)}

__all__ = [
    "LOCAL",
    "STEPS",
    "CalibrationSettings",
    "HealStep",
    "Identity",
    "IntactModel",
    "Part",
    "PruneStep",
    "SolverSettings",
    "Step",
    "digest",
]


class IntactModel(Part):
    """The model that a recipe begins with, by content.

    Attributes:
        weights: fingerprint; a hub model's is its name and revision.
        dtype: what its weights are cast to; ``None``: nothing.
        files: fingerprint of a local folder's other files.
    """

    weights: str | None = None
    dtype: str | None = None
    files: str | None = None

    @property
    def revision(self) -> str | None:
        """Of a model on the hub."""
        name, _, revision = (self.weights or "").rpartition("@")
        return revision if name.startswith("hub:") else None


def _parse(value: Any) -> Any:
    """A step from its mapping, by its kind."""
    if not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in STEPS:
        raise ValueError(f"{str(kind)[:40]!r} is no kind of step; allowed are {', '.join(STEPS)}")
    return STEPS[kind].model_validate({key: item for key, item in value.items() if key != "kind"})


class Identity(Part):
    """A model and its recipe: all that a checkpoint depends on, and nothing else.

    An empty recipe leaves the model as it is. Each beginning of a recipe is the identity of what is made
    on the way.
    """

    model: IntactModel = IntactModel()
    recipe: tuple[Annotated[SerializeAsAny[Step], BeforeValidator(_parse)], ...] = ()

    @property
    def prune(self) -> PruneStep | None:
        """The step that prunes, if there is one."""
        return next((step for step in self.recipe if isinstance(step, PruneStep)), None)

    @property
    def heal(self) -> HealStep | None:
        """The step that trains, if there is one."""
        return next((step for step in self.recipe if isinstance(step, HealStep)), None)

    @property
    def training(self) -> Self:
        """That of the whole training, of a model that leaves it earlier."""
        steps = (step.whole() if isinstance(step, HealStep) else step for step in self.recipe)
        return self.model_copy(update={"recipe": tuple(steps)})

    def before(self, kind: str) -> Self:
        """The identity of what its first step of a kind is given."""
        kinds = [step.kind for step in self.recipe]
        return self.model_copy(update={"recipe": self.recipe[: kinds.index(kind)]})

    def after(self, *steps: Step) -> Self:
        """The identity of what these steps make of this."""
        return self.model_copy(update={"recipe": (*self.recipe, *steps)})

    def canonical(self) -> dict[str, Any]:
        """The identity as JSON, whose digest is in file names.

        A recipe that only prunes is written flat, as before there were recipes, so that results of
        earlier releases are found under their names.
        """
        parts, steps = {"model": self.model.canonical()}, [step.canonical() for step in self.recipe]
        if len(steps) == 1 and self.prune:
            return parts | {key: value for key, value in steps[0].items() if key != "kind"}
        return parts | {"recipe": steps} if steps else parts
