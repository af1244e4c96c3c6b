"""Where the time of loading goes for the training split of a run."""

from __future__ import annotations

from foveate.config.settings import RunConfig
from foveate.data.parts import Source
from foveate.data.profile import PARTS, time_loading
from foveate.data.storage import Storage
from foveate.training.prepare import Prepared

_SECONDS = 1.0  # of measuring


def source_of(prepared: Prepared, config: RunConfig, storage: Storage) -> Source:
    """Say what the training loader makes its samples from.

    Args:
        prepared: Data and task.
        config: The settings.
        storage: Gets what is no plain file.
    """
    rows = prepared.rows("train")
    return Source(rows, prepared.image_size, config.augment, config.data, config.seed, storage)


def load_seconds(prepared: Prepared, config: RunConfig) -> dict[str, float]:
    """Measure what loading an image takes on one thread, in seconds, by part.

    Args:
        prepared: Data and task.
        config: The settings.

    Returns:
        By the names of `foveate.data.profile.PARTS`; empty for tiles, of which it is not known.

    Raises:
        SampleError: A file cannot be read and may not be skipped, or none can.
    """
    if prepared.tiles.size is not None:
        return {}
    loader = prepared.loader("train", config, processes=0)
    with Storage(config.cache_bytes) as storage:
        times, _ = time_loading(loader, source_of(prepared, config, storage), _SECONDS)
    loader.close()
    return {part: getattr(times, part) / 1000 for part in PARTS}
