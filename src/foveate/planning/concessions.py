"""What a plan gives up where what is usual does not fit: unfrozen layers, then pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from foveate.config.settings import RunConfig
from foveate.data.manifest import Manifest
from foveate.planning.measure import measure
from foveate.planning.measurement import LESS_UNFROZEN, Measurement
from foveate.planning.resizing import Size, image_sizes
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
        The first that fits, or the last of those that do not.

    Raises:
        FoveateError: As `foveate.planning.measure.measure` and `foveate.planning.settle.settle`.
    """
    found = usual = measure(manifest, config, limit, share)
    if fitting_sizes(config, found, ram) or found.base_bytes > ram:
        return found
    if config.recipe.unfreeze is None and any(name == "fine_tune" for name, _ in found.stages):
        config = _with(config, "recipe", unfreeze=LESS_UNFROZEN)
        found = measure(manifest, config, limit, share)
        if fitting_sizes(config, found, ram):
            return found
    if config.data.image_size is None and config.data.tiles.size is None:
        for size in _smaller_sizes(found, ram):
            config = _with(config, "data", image_size=size)
            found = measure(manifest, config, limit, share)
            if fitting_sizes(config, found, ram):
                return replace(found, too_large_images=usual.image_size)
    return found


def _smaller_sizes(usual: Measurement, ram: int) -> Sequence[Size]:
    """List image sizes, falling, that would fit if pixels were all that takes memory."""
    *smaller, full = image_sizes(usual.image_size, _NUM_IMAGE_SIZES)
    each = (usual.tries[0].peak_bytes - usual.base_bytes) / math.prod(full)
    return [s for s in reversed(smaller) if usual.base_bytes + math.prod(s) * each <= ram]


def _with(config: RunConfig, section: str, **values: Any) -> RunConfig:
    changed = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: changed})
