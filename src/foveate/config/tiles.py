"""How images far larger than what a model sees are read."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, field_validator

from foveate.config.section import ShortSection, square


class TilesConfig(ShortSection):
    """Tiles cut from images at their full resolution (segmentation)."""

    short = "size"

    size: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width) of a tile in pixels of the image; whole images when not set."""
    overlap: Annotated[float, Field(ge=0.0, le=0.9)] = 0.25
    """Least share of its side that a tile has in common with the next one where a trained model
    predicts."""
    balanced: bool = True
    """Whether every other tile of the training is cut where some class of its image is, each as
    often as the others, so that rare ones are seen; all are cut anywhere if not."""

    _square = field_validator("size", mode="before")(square)
