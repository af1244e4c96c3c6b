"""The learning rate as a pure function of progress through a stage."""

from __future__ import annotations

import math

from foveate.config.recipe import ScheduleConfig


def rate_factor(progress: float, config: ScheduleConfig) -> float:
    """Compute the learning rate at a moment, relative to its peak.

    Sources: cosine from Loshchilov & Hutter (2017), one_cycle from Smith & Topin (2018),
    cyclical (triangles) from Smith (2017). The warm-up comes before all: it rises linearly
    to where the shape begins.

    Args:
        progress: Share of the stage that is done, 0 to 1.
        config: Shape of the schedule.

    Returns:
        A factor from 0 to 1; after the warm-up never below `config.floor`. For `plateau` it is
        1: drops depend on what validation shows, not on progress.
    """
    progress = min(max(progress, 0.0), 1.0)
    after = max(progress - config.warmup, 0.0) / (1.0 - config.warmup)
    factor = config.floor + (1.0 - config.floor) * _shape(after, config)
    return factor * progress / config.warmup if progress < config.warmup else factor


def _shape(progress: float, config: ScheduleConfig) -> float:
    match config.name:
        case "cosine":
            return _fall(progress)
        case "one_cycle":
            rise = 0.3
            if progress < rise:
                return 1.0 / 25.0 + (1.0 - 1.0 / 25.0) * (1.0 - _fall(progress / rise))
            return _fall((progress - rise) / (1.0 - rise))
        case "cyclical":
            # Half-waves from peak to floor and back; an odd number of them ends at the floor.
            wave = progress * (2 * config.cycles - 1)
            return abs(1.0 - wave % 2.0)
        case "step":
            return config.factor ** min(math.floor(progress * (config.cycles + 1)), config.cycles)
        case _:
            return 1.0


def _fall(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))
