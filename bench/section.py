"""What all sections of a suite file have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of a suite file: unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
