"""What a plan gives up where what is usual does not fit: unfrozen layers, then pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from foveate.config.settings import RunConfig
from foveate.data.manifest import Manifest
from foveate.planning.measure import measure
from foveate.planning.measurement import LESS_UNFROZEN, Measurement
from foveate.planning.resizing import image_sizes
from foveate.planning.settle import fitting_sizes

_NUM_IMAGE_SIZES = 3  # the usual one, three quarters and half of it


def measure_what_fits(
    manifest: Manifest, config: RunConfig, limit: int, ram: int, share: float
) -> Measurement:
    """Measure a run as it is usual, or with no more given up than it must be to fit.

    Nothing that is stated is given up.

    Args:
        manifest: As for `foveate.planning.measure.measure`.
        config: The same.
        limit: The same.
        ram: Bytes of memory that the run may take.
        share: As for `foveate.planning.measure.measure`.

    Returns:
        The first that fits, or where none does, that with all given up.

    Raises:
        FoveateError: As `foveate.planning.measure.measure` and `foveate.planning.settle.settle`.
    """
    usual = measure(manifest, config, limit, share)
    if fitting_sizes(config, usual, ram):
        return usual
    found, concessions = usual, list(_concessions(config, usual))
    if usual.base_bytes > ram:  # the last one says what would be enough
        concessions = concessions[-1:]
    for conceded in concessions:
        found = measure(manifest, conceded, limit, share)
        if fitting_sizes(conceded, found, ram):
            break
    if found.image_size == usual.image_size:
        return found
    return replace(found, too_large_images=usual.image_size)


def _concessions(config: RunConfig, usual: Measurement) -> Iterator[RunConfig]:
    """Give settings of which each asks for less than those before, of what is open."""
    if config.recipe.unfreeze is None and any(name == "fine_tune" for name, _ in usual.stages):
        config = _with(config, "recipe", unfreeze=LESS_UNFROZEN)
        yield config
    if config.data.image_size is None and config.data.tiles.size is None:
        number = config.recipe.image_sizes or 1
        for size in reversed(image_sizes(usual.image_size, _NUM_IMAGE_SIZES)[:-1]):
            if len(image_sizes(size, number)) == number:  # small ones do not have as many
                yield _with(config, "data", image_size=size)


def _with(config: RunConfig, section: str, **values: Any) -> RunConfig:
    changed = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: changed})
