"""Arithmetic on what was measured: memory and time of a run at any batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, quantiles
from typing import Any

import numpy as np

from foveate.planning.measurement import Measurement, Try, levels
from foveate.planning.resizing import epochs_of_sizes, image_sizes
from foveate.planning.sizes import sample_bytes

WORTH_IT = 1.1
"""Times as fast; less is noise."""
END_SECONDS = 4.5
"""Saving the model (0.6), giving memory back (0.7), loading it to judge (0.9), pictures of the
worst mistakes (0.5), the report (0.5), the end of the process (1.3), as measured with
MobileNetV3Small on two cores; what a larger network adds goes by the time it takes to compile."""
_LEAST_ERROR = 0.05
_ERROR_OF_ONCE = 0.3
"""Share by which starting and compiling differed between a trial and its run, on two cores whose
disk cache others used as well."""
_KEPT_OF_SIZE = 0.6
"""Share of what a network takes beside its samples that stays with TensorFlow when it is done;
with EfficientNet-Lite0 it was 0.47 to 0.58, whatever the batch or image size."""


def peak_bytes(measured: Measurement, batch_size: int, sizes: int = 1) -> float:
    """Reckon the memory of a run by straight lines between what was tried, and beyond.

    Args:
        measured: What the machine does.
        batch_size: Samples of a batch.
        sizes: Image sizes that the last stage goes through.
    """
    tries, last = measured.tries, measured.tries[-1]
    peak = _between(tries, batch_size, lambda one: one.peak_bytes)
    if len(tries) > 1 and batch_size > last.batch_size:
        more = batch_size - last.batch_size
        peak = last.peak_bytes + more * sample_bytes(*levels(tries), measured.base_bytes)
    return peak + (sizes - 1) * _size_bytes(measured)


def _size_bytes(measured: Measurement) -> float:
    """Memory that a backend keeps of another image size, once that is done."""
    without_samples = _between(measured.tries, 0, lambda one: one.peak_bytes)
    return _KEPT_OF_SIZE * max(without_samples - measured.base_bytes, 0.0)


def device_bytes(measured: Measurement, batch_size: int) -> float:
    """As `peak_bytes`, of the accelerator; 0 without one."""
    return _between(measured.tries, batch_size, lambda one: one.device_bytes or 0)


def batch_seconds(measured: Measurement, stage: str, batch_size: float) -> float:
    """Reckon the time of a batch: by one straight line, or where there is none, by several.

    Tries take place at different times, in which a machine that others use as well is differently
    fast. All of them together tell more than the nearest ones.
    """
    sizes = np.array([one.batch_size for one in measured.tries], float)
    seconds = np.array([mean(one.stage_seconds[stage]) for one in measured.tries])
    if len(sizes) > 2 and seconds.all():
        slope, once = np.polyfit(sizes, seconds, 1, w=1 / seconds)
        off = np.abs(np.log(np.maximum(once + slope * sizes, 1e-9) / seconds)).max()
        if min(once, slope) >= 0 and off <= math.log(WORTH_IT):
            return float(once + slope * batch_size)
    return _between(measured.tries, batch_size, lambda one: mean(one.stage_seconds[stage]))


def _between(tries: Sequence[Try], size: float, value: Any) -> float:
    if len(tries) == 1:
        return float(value(tries[0]))
    # The pair around the size, or the one nearest to it.
    above = next((i for i, one in enumerate(tries) if one.batch_size >= size), len(tries) - 1)
    low, high = tries[max(above - 1, 0)], tries[max(above, 1)]
    slope = max(value(high) - value(low), 0) / (high.batch_size - low.batch_size)
    return float(value(low) + slope * (size - low.batch_size))


def epoch_seconds(measured: Measurement, batch_size: int) -> dict[str, float]:
    """Reckon the time of an epoch with its validation, by stage."""
    one = nearest_try(measured, batch_size)
    seconds = {}
    for name, _ in measured.stages:
        sample = batch_seconds(measured, name, batch_size) / batch_size
        judged = sample if on_features(measured, name) else one.validation_seconds
        training = measured.epoch_samples * sample
        seconds[name] = training + measured.rows["validation"] * judged
    return seconds


def epochs_at_full_size(measured: Measurement, batch_size: int, epochs: int, sizes: int) -> float:
    """Say how many epochs of the last stage at full size cost as much as those in several sizes.

    A batch of smaller images takes a share of the time that is no less than their share of the
    pixels, and no less than what as many pixels took in fewer images. Waiting for data stays.

    Args:
        measured: What the machine does.
        batch_size: Samples of a batch.
        epochs: Of all sizes together.
        sizes: Number of image sizes.
    """
    (height, width), name = measured.image_size, measured.stages[-1][0]
    waits = nearest_try(measured, batch_size).wait_shares[name]
    counts = epochs_of_sizes(epochs, sizes)
    total = 0.0
    for (high, wide), count in zip(image_sizes((height, width), sizes), counts, strict=True):
        share = high * wide / (height * width)
        if len(measured.tries) > 1:
            fewer = batch_seconds(measured, name, share * batch_size)
            share = max(share, fewer / batch_seconds(measured, name, batch_size))
        total += count * (waits + (1.0 - waits) * share)
    return total


def sizes_that_pay(
    measured: Measurement, batch_size: int, limit: float, seconds: float | None
) -> tuple[int, float]:
    """Find the number of image sizes with which the last stage is fastest.

    Args:
        measured: What the machine does.
        batch_size: Samples of a batch.
        limit: Bytes of memory that the run may take.
        seconds: What the run may take, where that decides the number of epochs.

    Returns:
        The number, 1 where more would gain no more than noise, as each has to be compiled; and
        the share of the time with one size that the stage then takes.
    """
    name, count = measured.stages[-1]
    epoch = epoch_seconds(measured, batch_size)[name]
    epochs = count or epochs_in(seconds or 0.0, measured, batch_size)
    another = nearest_try(measured, batch_size).size_seconds

    def taken(sizes: int) -> float:
        at_full_size = epochs_at_full_size(measured, batch_size, epochs, sizes)
        return at_full_size * epoch + (sizes - 1) * another

    possible = [
        sizes
        for sizes in range(1, min(measured.image_sizes, epochs) + 1)
        if peak_bytes(measured, batch_size, sizes) <= limit
    ]
    best = min(possible, key=taken, default=1)
    return (best, taken(best) / taken(1)) if taken(1) > WORTH_IT * taken(best) else (1, 1.0)


def epochs_in(seconds: float, measured: Measurement, batch_size: int) -> int:
    """Reckon how many epochs of the last stage fit, where stages that are open get equal times.

    Args:
        seconds: What the run may take.
        measured: What the machine does.
        batch_size: Samples of a batch.
    """
    counts = dict(measured.stages)
    stated = replace(measured, stages=[(name, count or 0) for name, count in counts.items()])
    taken = total_seconds(stated, batch_size) or 0.0
    epoch = epoch_seconds(measured, batch_size)[measured.stages[-1][0]]
    num_open = sum(count is None for count in counts.values())
    return max(int((seconds - taken) / num_open / epoch), 1)


def on_features(measured: Measurement, stage: str) -> bool:
    """Say whether a stage learns from stored features."""
    return stage == "frozen" and measured.frozen_views > 0


def features_seconds(measured: Measurement, batch_size: int) -> float:
    """Reckon how long it takes to compute all features that are stored."""
    views = measured.frozen_views
    items = views * measured.rows["train"] + measured.rows["validation"] if views else 0
    return items * nearest_try(measured, batch_size).forward_seconds


def nearest_try(measured: Measurement, batch_size: int) -> Try:
    """The try whose batch size is nearest."""
    return min(measured.tries, key=lambda one: abs(one.batch_size - batch_size))


def total_seconds(measured: Measurement, batch_size: int, sizes: int = 1) -> float | None:
    """Reckon the time from start to report; None where the time decides the epochs.

    Args:
        measured: What the machine does.
        batch_size: Samples of a batch.
        sizes: Image sizes that the last stage goes through.
    """
    if any(count is None for _, count in measured.stages):
        return None
    epochs = epoch_seconds(measured, batch_size)
    counts = {name: count or 0 for name, count in measured.stages}
    last = measured.stages[-1][0]
    full = epochs_at_full_size(measured, batch_size, counts[last], sizes)
    training = sum(epochs[name] * {**counts, last: full}[name] for name in counts)
    features = features_seconds(measured, batch_size)
    once = once_seconds(measured, batch_size, sizes)
    return features + training + _judging_seconds(measured, batch_size) + once


def least_seconds(measured: Measurement, batch_size: int) -> float:
    """Reckon the time from start to report of a run that trains for hardly more than no time.

    Its model is validated once, and judged.
    """
    validation = measured.rows["validation"] * nearest_try(measured, batch_size).validation_seconds
    judging = _judging_seconds(measured, batch_size)
    return validation + judging + once_seconds(measured, batch_size)


def _judging_seconds(measured: Measurement, batch_size: int) -> float:
    return measured.judged * nearest_try(measured, batch_size).validation_seconds


def once_seconds(measured: Measurement, batch_size: int, sizes: int = 1) -> float:
    """Reckon what a run takes to start, compile and end, however much data there is.

    A step that accumulates gradients took up to a third longer to compile: only tries of about
    the same batch size tell.
    """
    one = nearest_try(measured, batch_size)
    compiling = one.compile_seconds + (sizes - 1) * one.size_seconds
    return measured.startup_seconds + compiling + END_SECONDS


def time_error(measured: Measurement, batch_size: int, sizes: int = 1) -> float:
    """Say by which share the time from start to report may be wrong.

    The steps are as certain as they were alike. What comes but once was measured but once.
    """
    one = nearest_try(measured, batch_size)
    steps = max(_LEAST_ERROR, *(spread(seconds) for seconds in one.stage_seconds.values()))
    total = total_seconds(measured, batch_size, sizes)
    once = once_seconds(measured, batch_size, sizes)
    if total is None:
        return steps
    return steps + max(_ERROR_OF_ONCE - steps, 0.0) * once / total


def spread(seconds: Sequence[float]) -> float:
    """Half the distance of the quartiles, as a share of the median."""
    low, middle, high = quantiles(seconds, n=4, method="inclusive")
    return (high - low) / 2 / middle
