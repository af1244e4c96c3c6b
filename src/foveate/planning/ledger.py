"""What justifies a plan, line by line, and what would change with more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from foveate import machine
from foveate.config.settings import RunConfig
from foveate.errors import BudgetError
from foveate.planning.data_lines import data_lines
from foveate.planning.fingerprint import Fingerprint
from foveate.planning.measurement import LESS_UNFROZEN, LOADING_LIMITS, Measurement
from foveate.planning.plan import Line, Plan, Source, size_text, time_text
from foveate.planning.reckon import (
    WORTH_IT,
    batch_seconds,
    features_seconds,
    nearest_try,
    on_features,
    peak_bytes,
    sizes_that_pay,
)
from foveate.planning.resizing import image_sizes
from foveate.planning.sizes import KEPT_FREE, pinned_by

_GIB = 1024**3
_WORTH_SAYING = 0.95  # of the time; more is noise
RUN_FILES = 13
"""Times the weights: two checkpoints and one that is being written, each with the two averages of
Adam and what was accumulated of gradients, and the best epoch. While the model is written, no
checkpoint is."""


def justify(
    plan: Plan,
    config: RunConfig,
    found: Fingerprint,
    measured: Measurement,
    ram: int,
    waits: float,
    gained: Mapping[str, float],
) -> list[Line]:
    """Write the ledger.

    Args:
        plan: What was chosen.
        config: What the user states.
        found: What the data is.
        measured: What the machine does.
        ram: Bytes of memory that the run may take.
        waits: Share of the time of the longest stage that is spent waiting for data.
        gained: How many times as fast training is with what else was tried, as
            `foveate.planning.faster.gains` tells it.

    Returns:
        All lines.
    """
    pinned = pinned_by(config)
    tiled = config.data.tiles.size is not None
    size: Source = "pinned" if config.data.image_size or tiled else "derived"
    stated = "data.image_size" if config.data.image_size else "data.tiles"
    beyond = max(plan.peak_bytes - measured.base_bytes, 0)
    lines = [
        *data_lines(config, found, measured),
        Line("backend", f"{plan.backend} on {', '.join(measured.devices)}",
             "derived" if config.runtime.backend == "auto" else "pinned", "runtime.backend"),
        _precision_line(plan, config, gained.get("precision")),
        Line("image size", f"{plan.image_size[0]}x{plan.image_size[1]}", size,
             stated if size == "pinned" else _reason_of_size(measured)),
        Line("effective batch size", str(config.effective_batch_size), "stated",
             "samples of one step"),
        Line("batch size", str(plan.batch_size), "pinned" if pinned else "derived",
             pinned or "the largest that fits and is as fast as any"),
        Line("accumulation", _counted(plan.gradient_accumulation_steps), "derived",
             "effective batch size / batch size"),
        _loader_line(plan, config, gained.get("processes")),
        Line("queue", size_text(plan.queue_bytes), "derived",
             "loader.queue, or a part of the memory: batches that wait, at most"),
        Line("memory, start", size_text(measured.base_bytes), "measured",
             "libraries, table and model before the first batch"),
        Line("memory, training", f"+ {size_text(beyond)}", "measured",
             "activations, gradients, optimizer, queue; by lines through "
             f"batches of {', '.join(str(one.batch_size) for one in measured.tries)}"),
        Line("memory, peak", f"= {size_text(plan.peak_bytes)} of {size_text(ram)}", "derived",
             f"{KEPT_FREE:.0%} of the budget is kept free"),
        *_device_lines(plan, config),
        Line("weights", size_text(measured.weight_bytes), "measured", "of the model"),
        *_disk_lines(plan, config, measured),
    ]  # fmt: skip
    for name, count in measured.stages:
        lines += _stage_lines(plan, config, measured, ram, name, count)
        if name == "fine_tune":
            lines.append(_unfrozen_line(plan, config, gained.get("unfreeze")))
    lines.append(_total_line(plan, config.budget.time))
    lines.append(
        Line("bottleneck", plan.bottleneck, "measured", f"{waits:.0%} of the time waiting")
    )
    return lines


def _total_line(plan: Plan, limit: float | None) -> Line:
    """Say what a run takes: what its epochs do, or `budget.time` where that is less."""
    name, parts = "time, in all", "start, epochs, validation, judging"
    if plan.total_seconds is None:
        return Line(name, f"at most {time_text(limit or 0)}", "stated", parts)
    total = f"{time_text(plan.total_seconds)} ± {plan.error:.0%}"
    if limit is None or plan.total_seconds <= limit:
        return Line(name, total, "derived", parts)
    reason = f"budget.time ends it; the stated epochs would take {total}"
    return Line(name, f"at most {time_text(limit)}", "stated", reason)


def fastest_of(plans: Sequence[Plan], problems: Mapping[str, Exception]) -> Plan:
    """Choose among plans for several backends, and say what the others would take.

    Args:
        plans: One of each backend that will do, at least one.
        problems: Why there is none of the others.
    """

    def seconds(plan: Plan) -> float:
        return plan.total_seconds or sum(plan.epoch_seconds.values())

    first, *others = sorted(plans, key=seconds)
    told = [f"takes {time_text(seconds(first))}"]
    told += [f"{plan.backend} {time_text(seconds(plan))}" for plan in others]
    told += [
        f"{name} {'does not fit' if isinstance(error, BudgetError) else 'failed its trial'}"
        for name, error in problems.items()
    ]
    reason = "; ".join(told)
    ledger = [
        replace(line, source="measured", reason=reason) if line.name == "backend" else line
        for line in first.ledger
    ]
    return replace(first, ledger=ledger)


def _reason_of_size(measured: Measurement) -> str:
    if measured.too_large_images is None:
        return "the backbone's own, or the images' where it has none"
    height, width = measured.too_large_images
    return f"the usual {height}x{width} does not fit"


def _counted(batches: int) -> str:
    return f"{batches} batch{'es' if batches > 1 else ''}"


def _precision_line(plan: Plan, config: RunConfig, gain: float | None) -> Line:
    if config.recipe.precision != "auto":
        return Line("precision", plan.precision, "pinned", "recipe.precision")
    if gain is None:
        return Line("precision", plan.precision, "derived", "nothing else was tried here")
    reason = f"mixed_bfloat16 trains {gain:.2f} times as fast as float32"
    reason += _left_out(gain, is_taken=plan.precision != "float32")
    return Line("precision", plan.precision, "measured", reason)


def _loader_line(plan: Plan, config: RunConfig, gain: float | None) -> Line:
    threads = config.loader.threads or machine.cpu_count()
    value = f"{threads} thread{'s' if threads > 1 else ''}"
    if plan.processes:
        value += f" in {plan.processes} process{'es' if plan.processes > 1 else ''}"
    if gain is not None:
        reason = f"processes make training {gain:.2f} times as fast as threads alone"
        reason += _left_out(gain, is_taken=plan.processes > 0)
        return Line("loader", value, "measured", reason)
    if config.loader.processes is not None:
        return Line("loader", value, "pinned", "loader.processes")
    source: Source = "derived" if config.loader.threads is None else "pinned"
    return Line("loader", value, source, "loader.threads, one per processor when not set")


def _disk_lines(plan: Plan, config: RunConfig, measured: Measurement) -> list[Line]:
    """The disk, and of it the cache where there is one."""
    # Other processes have a cache together, and the one that reads the validation split its own.
    cache = config.cache_bytes * (2 if plan.processes else 1) if measured.caches else 0
    needed = RUN_FILES * measured.weight_bytes + measured.feature_bytes + cache
    reason = f"checkpoints and model, {size_text(measured.feature_bytes)} of features"
    if not cache:
        return [Line("disk", size_text(needed), "derived", reason)]
    is_open = config.loader.cache is None
    return [
        Line("cache", size_text(cache), "derived" if is_open else "pinned",
             "4 GiB, at most a third of budget.disk, for a while" if is_open else "loader.cache"),
        Line("disk", size_text(needed), "derived", f"{reason}, and at most all of the cache"),
    ]  # fmt: skip


def _device_lines(plan: Plan, config: RunConfig) -> list[Line]:
    if plan.device_bytes is None:
        return []
    value, stated = size_text(plan.device_bytes), config.budget.gpu_memory
    if stated is None:
        return [Line("accelerator, peak", value, "measured", "all that it stores at once")]
    reason = f"{KEPT_FREE:.0%} of budget.gpu_memory is kept free"
    return [Line("accelerator, peak", f"{value} of {size_text(stated)}", "derived", reason)]


def _left_out(gain: float, is_taken: bool) -> str:
    """Say why what is faster was not taken; what is no faster needs no words."""
    return ", but that does not fit" if gain > WORTH_IT and not is_taken else ""


def _stage_lines(
    plan: Plan,
    config: RunConfig,
    measured: Measurement,
    ram: int,
    name: str,
    count: int | None,
) -> list[Line]:
    seconds = batch_seconds(measured, name, plan.batch_size)
    lines = [
        Line(f"{name}, rate", f"{plan.batch_size / seconds:,.1f} images/s", "measured",
             f"a batch takes {seconds:.3f} s"),
        Line(f"{name}, epoch", time_text(plan.epoch_seconds[name]), "derived",
             "whole steps and the validation rows at their rates"),
        Line(f"{name}, epochs", "as many as fit" if count is None else str(count), "stated",
             "recipe and budget.time"),
    ]  # fmt: skip
    if name == measured.stages[-1][0] != "frozen":
        lines.append(_sizes_line(plan, config, measured, ram, name))
    if not on_features(measured, name):
        return lines
    forward = nearest_try(measured, plan.batch_size).forward_seconds
    source: Source = "derived" if config.recipe.frozen_views is None else "pinned"
    return [
        Line(f"{name}, views", str(plan.frozen_views), source,
             "of each image, whose features are computed once"),
        Line(f"{name}, features", time_text(features_seconds(measured, plan.batch_size)),
             "derived", f"{1 / forward:,.0f} images/s through the backbone"),
        *lines,
    ]  # fmt: skip


def _unfrozen_line(plan: Plan, config: RunConfig, gain: float | None) -> Line:
    name, value = "fine_tune, unfrozen", f"{plan.unfreeze:.0%} of the backbone's layers"
    if config.recipe.unfreeze is not None:
        return Line(name, value, "pinned", "recipe.unfreeze")
    if gain is not None:
        reason = f"{LESS_UNFROZEN:.0%} train {gain:.2f} times as fast as all, and time is short"
        reason += _left_out(gain, is_taken=plan.unfreeze < 1)
        return Line(name, value, "measured", reason)
    reason = "memory allows it" if plan.unfreeze == 1 else "training all of them does not fit"
    return Line(name, value, "derived", reason)


def _sizes_line(plan: Plan, config: RunConfig, measured: Measurement, ram: int, name: str) -> Line:
    """Say at which image sizes a stage trains, or what smaller ones would bring."""
    sizes = image_sizes(plan.image_size, plan.image_sizes)
    most, share = sizes_that_pay(
        measured, plan.batch_size, ram * (1 - KEPT_FREE), config.budget.time
    )
    reason = "recipe.image_sizes; smaller ones first would hardly be faster"
    if config.recipe.image_sizes is not None:
        reason = "recipe.image_sizes"
    elif most > 1:
        reason = f"recipe.image_sizes = {most} would take about {share:.0%} of the time"
    return Line(
        f"{name}, image sizes",
        ", ".join(f"{height}x{width}" for height, width in sizes),
        "derived" if config.recipe.image_sizes is None else "pinned",
        reason,
    )


def advice(
    measured: Measurement,
    sizes: Sequence[int],
    batch_size: int,
    ram: int,
    waits: float,
    epochs: Mapping[str, float],
) -> list[str]:
    """Say what one more GiB or ten more minutes would buy, and what to look at."""
    lines, last = [], measured.stages[-1][0]
    larger = [size for size in sizes if size > batch_size]
    gained = [
        size for size in larger if peak_bytes(measured, size) <= (ram + _GIB) * (1 - KEPT_FREE)
    ]
    now, then = (
        batch_seconds(measured, last, size) / size
        for size in (batch_size, gained[-1] if gained else batch_size)
    )
    if then < _WORTH_SAYING * now:
        lines.append(
            f"One more GiB would allow batches of {gained[-1]}: an epoch of {last} in "
            f"{then / now:.0%} of the time."
        )
    lines.append(f"Ten more minutes are {600 / epochs[last]:,.1f} more epochs of {last}.")
    if waits > LOADING_LIMITS:
        lines.append(
            f"Loading is the bottleneck, {waits:.0%} of the time is spent waiting for data: "
            "foveate profile says what to do."
        )
    return lines
