"""From what was measured to a plan that fits: arithmetic alone, each number with its reason."""

from __future__ import annotations

import math

from foveate.config.settings import RunConfig
from foveate.errors import BudgetError, ConfigError
from foveate.planning.faster import fastest_first, gains
from foveate.planning.fingerprint import Fingerprint
from foveate.planning.ledger import advice, justify
from foveate.planning.measurement import LOADING_LIMITS, Measurement
from foveate.planning.plan import Plan, size_text
from foveate.planning.reckon import (
    WORTH_IT,
    batch_seconds,
    device_bytes,
    epoch_seconds,
    least_seconds,
    nearest_try,
    peak_bytes,
    time_error,
    total_seconds,
)
from foveate.planning.sizes import KEPT_FREE, QUEUE_SHARE, batch_sizes, pinned_by

_STEP, _SECONDS = 50 * 1024**2, 5  # budgets are named in such steps
_ENOUGH = 16
"""Samples with which batch normalization does well: errors of a ResNet-50 on ImageNet were 23.6 %
with 32, 23.7 % with 16, 24.8 % with 8, 27.3 % with 4 and 34.7 % with 2 (Wu and He, "Group
Normalization", 2018)."""
_SAFETY = 1.25  # a machine that others use as well takes longer


def settle(
    config: RunConfig,
    found: Fingerprint,
    measured: Measurement,
    ram: int,
) -> Plan:
    """Choose a batch, and reckon what the run will take.

    It is the largest that fits and is as fast as any, for all that measurements can tell: to take
    the lowest of noisy times would promise too much, and batch normalization does better with
    more samples. However fast, it is none of few samples where more of them fit.

    Args:
        config: The settings.
        found: What the data is.
        measured: What the machine does.
        ram: Bytes of memory that the run may take.

    Returns:
        The plan.

    Raises:
        BudgetError: Nothing fits; the message names the smallest budget that would do. Or there
            is no time for any model; it names about how much there must be beside measuring.
        ConfigError: Memory of an accelerator is stated where there is none.
    """
    gained, ways = gains(measured), fastest_first(measured)
    measured = next((way for way in ways if fitting_sizes(config, way, ram)), measured)
    sizes, num_sizes = _known_sizes(config, measured), config.recipe.image_sizes or 1
    fitting = fitting_sizes(config, measured, ram)
    if not fitting:
        raise BudgetError(_refusal(config, measured, sizes[0], ram))
    _require_time(config, min(least_seconds(measured, size) for size in fitting))
    enough = [size for size in fitting if size >= min(_ENOUGH, fitting[-1])]
    fastest = min(_cost(measured, size) for size in enough)
    batch_size = max(size for size in enough if _cost(measured, size) <= WORTH_IT * fastest)
    nearest = nearest_try(measured, batch_size)
    epochs = epoch_seconds(measured, batch_size)
    slowest = max(measured.stages, key=lambda stage: epochs[stage[0]] * (stage[1] or 1))[0]
    waits = nearest.wait_shares[slowest]
    plan = Plan(
        batch_size=batch_size,
        gradient_accumulation_steps=config.effective_batch_size // batch_size,
        image_size=measured.image_size,
        backend=measured.backend,
        precision=measured.tries[0].precision,
        peak_bytes=round(peak_bytes(measured, batch_size, num_sizes)),
        epoch_seconds=epochs,
        total_seconds=total_seconds(measured, batch_size, num_sizes),
        error=time_error(measured, batch_size, num_sizes),
        queue_bytes=int(config.loader.queue),
        processes=measured.tries[0].processes,
        frozen_views=measured.frozen_views,
        image_sizes=num_sizes,
        unfreeze=measured.tries[0].unfreeze,
        bottleneck="loading" if waits > LOADING_LIMITS else "model",
        ledger=[],
        advice=advice(
            measured, _sizes_on_device(config, measured), batch_size, ram, waits, epochs
        ),
        device_bytes=round(device_bytes(measured, batch_size)) or None,
        validation_seconds=nearest.validation_seconds or None,
    )
    plan.ledger.extend(justify(plan, config, found, measured, ram, waits, gained))
    return plan


def fitting_sizes(config: RunConfig, measured: Measurement, ram: int) -> list[int]:
    """List the batch sizes that fit, ascending; arguments and errors as for `settle`."""
    limit, num_sizes = ram * (1 - KEPT_FREE), config.recipe.image_sizes or 1
    return [
        size
        for size in _sizes_on_device(config, measured)
        if peak_bytes(measured, size, num_sizes) <= limit
    ]


def _sizes_on_device(config: RunConfig, measured: Measurement) -> list[int]:
    """Batch sizes of which something can be told, without those too large for `gpu_memory`."""
    sizes, stated = _known_sizes(config, measured), config.budget.gpu_memory
    if stated is None:
        return sizes
    if measured.devices == ["cpu"]:
        raise ConfigError(
            f"budget.gpu_memory needs an accelerator, but {measured.backend} computes on the "
            "processor here. State budget.ram instead."
        )
    if measured.tries[0].device_bytes is None:
        raise ConfigError(
            f"budget.gpu_memory needs an accelerator whose memory {measured.backend} tells, but "
            f"got {', '.join(measured.devices)}. State budget.ram instead."
        )
    limit = stated * (1 - KEPT_FREE)
    return [size for size in sizes if device_bytes(measured, size) <= limit]


def _known_sizes(config: RunConfig, measured: Measurement) -> list[int]:
    """Batch sizes of which something can be told."""
    sizes = batch_sizes(config)
    if len(measured.tries) == 1:  # of others nothing is known
        sizes = [size for size in sizes if size <= measured.tries[0].batch_size]
    if measured.too_large is not None:
        sizes = [size for size in sizes if size < measured.too_large]
    return sizes


def _cost(measured: Measurement, batch_size: int) -> float:
    """Seconds a sample in the slowest stage."""
    stages = measured.tries[0].stage_seconds
    return max(batch_seconds(measured, name, batch_size) for name in stages) / batch_size


def _refusal(config: RunConfig, measured: Measurement, smallest: int, ram: int) -> str:
    device: int | None = config.budget.gpu_memory
    peak = peak_bytes(measured, smallest, config.recipe.image_sizes or 1)
    beyond = max(peak - measured.base_bytes, 0)
    sum_of = f"{size_text(measured.base_bytes)} at the start, {size_text(beyond)} for training"
    which, stated, needed = "budget.ram", ram, peak / (1 - KEPT_FREE)
    if needed <= ram and device is not None:
        peak = device_bytes(measured, smallest)
        sum_of, which, stated = f"{size_text(peak)} for training", "budget.gpu_memory", device
        needed = peak / (1 - KEPT_FREE)
    elif (queue := int(config.loader.queue)) == ram // QUEUE_SHARE:  # more memory, more of it
        needed = max(needed, (peak - queue) / (1 - KEPT_FREE - 1 / QUEUE_SHARE))
    pinned = pinned_by(config)
    change = f"leave {pinned} out, or " if pinned and smallest > 1 else ""
    height, width = measured.image_size
    images = f"images of {height}x{width}"
    if (share := measured.tries[0].unfreeze) < 1:
        images += f", {share:.0%} of the backbone's layers trained"
    return (
        f"{which} must be at least {size_text(_rounded_up(needed))} for this model at batch size "
        f"{smallest} and {images} ({sum_of}, {KEPT_FREE:.0%} kept free), but "
        f"got {size_text(stated)}. Raise it, {change}"
        "choose a smaller data.image_size or model.backbone."
    )


def _require_time(config: RunConfig, least: float) -> None:
    stated = config.budget.time
    if stated is not None and least > stated:
        enough = _SECONDS * math.ceil(_SAFETY * least / _SECONDS)
        raise BudgetError(
            f'budget.time must be at least "{enough}s" for this model to start, be validated, '
            "judged and reported, and more for training and for what planning measures, but got "
            f"{stated:.0f} s. Raise it, hold out fewer samples "
            "(data.splits), or choose a smaller data.image_size or model.backbone."
        )


def _rounded_up(num_bytes: float) -> int:
    return math.ceil(num_bytes / _STEP) * _STEP
