"""From what was measured to a plan that fits: arithmetic alone, each number with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, Literal

from pydantic import ByteSize

from foveate.config.settings import RunConfig
from foveate.errors import BudgetError, ConfigError
from foveate.planning.fingerprint import Fingerprint
from foveate.planning.measure import Measurement, Try, batch_sizes

_MIB, _GIB = 1024**2, 1024**3
KEPT_FREE = 0.12
"""Share of the memory that is not planned for: a long run grows a little beyond a short trial."""
_LOADING_LIMITS = 0.2  # share of time spent waiting above which loading is the bottleneck

Source = Literal["stated", "measured", "derived", "pinned"]


@dataclass(frozen=True)
class Line:
    """One line of the ledger.

    Attributes:
        name: What.
        value: How much, as text with its unit.
        source: Where the number is from: the budget, a measurement, arithmetic, or a setting.
        reason: Why it is so.
    """

    name: str
    value: str
    source: Source
    reason: str


@dataclass(frozen=True)
class Plan:
    """What was chosen, and the ledger that justifies it.

    Attributes:
        batch_size: Samples the loader yields at once.
        gradient_accumulation_steps: Batches of one step.
        image_size: (height, width) the model sees, in pixels.
        backend: Keras backend.
        precision: Arithmetic of the layers.
        peak_bytes: Memory that the run will take at most.
        epoch_seconds: Time of an epoch with its validation, by stage.
        total_seconds: Time from start to report; None where the number of epochs is open.
        error: Share by which the times may be wrong either way.
        queue_bytes: Most memory of batches that wait for the model.
        bottleneck: ``loading`` or ``model``.
        ledger: All lines.
        advice: What would change with more, or is worth knowing.
    """

    batch_size: int
    gradient_accumulation_steps: int
    image_size: tuple[int, int]
    backend: str
    precision: str
    peak_bytes: int
    epoch_seconds: dict[str, float]
    total_seconds: float | None
    error: float
    queue_bytes: int
    bottleneck: Literal["loading", "model"]
    ledger: list[Line]
    advice: list[str]

    def apply(self, config: RunConfig) -> RunConfig:
        """Put what was chosen into settings.

        Args:
            config: What the user states.

        Returns:
            Settings in which nothing that the plan decides is left open.
        """
        data = config.data.model_copy(update={"batch_size": self.batch_size})
        chosen = {
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "effective_batch_size": None,
        }
        recipe = config.recipe.model_copy(update=chosen)
        loader = config.loader.model_copy(update={"queue": ByteSize(self.queue_bytes)})
        return config.model_copy(update={"data": data, "recipe": recipe, "loader": loader})

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return asdict(self)


def settle(
    config: RunConfig,
    found: Fingerprint,
    measured: Measurement,
    ram: int,
) -> Plan:
    """Choose the largest batch that fits, and reckon what the run will take.

    Args:
        config: The settings.
        found: What the data is.
        measured: What the machine does.
        ram: Bytes of memory that the run may take.

    Returns:
        The plan.

    Raises:
        BudgetError: Nothing fits; the message names the smallest budget that would do.
        ConfigError: Memory of an accelerator is stated where there is none.
    """
    stages = dict(measured.stages)
    whole = config.effective_batch_size
    sizes = batch_sizes(config)
    is_pinned = len(sizes) == 1
    if len(measured.tries) == 1:  # of others nothing is known
        sizes = [size for size in sizes if size <= measured.tries[0].batch_size]
    limit = ram * (1 - KEPT_FREE)
    fitting = [size for size in sizes if peak_bytes(measured, size) <= limit]
    device_limit = config.budget.gpu_memory
    if device_limit is not None and measured.devices == ["cpu"]:
        raise ConfigError(
            f"budget.gpu_memory needs an accelerator, but {measured.backend} computes on the "
            "processor here. State budget.ram instead."
        )
    if device_limit is not None:
        fitting = [
            s for s in fitting if device_bytes(measured, s) <= device_limit * (1 - KEPT_FREE)
        ]
    if not fitting:
        raise BudgetError(_refusal(measured, sizes[0], ram, device_limit, is_pinned))
    batch_size = min(fitting, key=lambda size: (_cost(measured, size), -size))
    nearest = min(measured.tries, key=lambda one: abs(one.batch_size - batch_size))
    per_sample = {name: batch_seconds(measured, name, batch_size) / batch_size for name in stages}
    validation = measured.rows["validation"] * nearest.validation_seconds
    epochs = {
        name: seconds * measured.rows["train"] * config.loader.repeat + validation
        for name, seconds in per_sample.items()
    }
    total = _total(measured, nearest, stages, epochs)
    error = max(0.05, *(_spread(nearest.stage_seconds[name]) for name in stages))
    slowest = max(stages, key=lambda name: epochs[name] * (stages[name] or 1))
    waits = nearest.wait_shares[slowest]
    plan = Plan(
        batch_size=batch_size,
        gradient_accumulation_steps=whole // batch_size,
        image_size=measured.image_size,
        backend=measured.backend,
        precision=config.recipe.precision,
        peak_bytes=round(peak_bytes(measured, batch_size)),
        epoch_seconds=epochs,
        total_seconds=total,
        error=error,
        queue_bytes=int(config.loader.queue),
        bottleneck="loading" if waits > _LOADING_LIMITS else "model",
        ledger=[],
        advice=_advice(measured, sizes, batch_size, ram, waits, epochs, stages),
    )
    plan.ledger.extend(_ledger(plan, config, found, measured, ram, is_pinned, waits))
    return plan


def peak_bytes(measured: Measurement, batch_size: int) -> float:
    """Reckon the memory of a run by straight lines between what was tried, and beyond."""
    return _between(measured.tries, batch_size, lambda one: one.peak_bytes)


def device_bytes(measured: Measurement, batch_size: int) -> float:
    """As `peak_bytes`, of the accelerator; 0 without one."""
    return _between(measured.tries, batch_size, lambda one: one.device_bytes or 0)


def batch_seconds(measured: Measurement, stage: str, batch_size: int) -> float:
    """Reckon the time of a batch by straight lines between what was tried, and beyond."""
    return _between(measured.tries, batch_size, lambda one: median(one.stage_seconds[stage]))


def _between(tries: Sequence[Try], size: int, value: Any) -> float:
    if len(tries) == 1:
        return float(value(tries[0]))
    # The pair around the size, or the one nearest to it.
    above = next((i for i, one in enumerate(tries) if one.batch_size >= size), len(tries) - 1)
    low, high = tries[max(above - 1, 0)], tries[max(above, 1)]
    slope = max(value(high) - value(low), 0) / (high.batch_size - low.batch_size)
    return float(value(low) + slope * (size - low.batch_size))


def _cost(measured: Measurement, batch_size: int) -> float:
    """Seconds a sample in the slowest stage, in steps of 2 %, which is noise."""
    slowest = max(
        batch_seconds(measured, name, batch_size) for name in measured.tries[0].stage_seconds
    )
    return round(math.log(max(slowest / batch_size, 1e-9)) / 0.02)


def _spread(seconds: Sequence[float]) -> float:
    """Half the distance of the quartiles, as a share of the median."""
    low, middle, high = quantiles(seconds, n=4, method="inclusive")
    return (high - low) / 2 / middle


def _total(
    measured: Measurement, one: Try, stages: Mapping[str, int | None], epochs: Mapping[str, float]
) -> float | None:
    if None in stages.values():
        return None
    training = sum(epochs[name] * (count or 0) for name, count in stages.items())
    held_out = measured.rows["test"] or measured.rows["validation"]
    return measured.startup_seconds + training + held_out * one.validation_seconds


def _refusal(
    measured: Measurement, smallest: int, ram: int, device: int | None, is_pinned: bool
) -> str:
    needed = peak_bytes(measured, smallest) / (1 - KEPT_FREE)
    if needed <= ram and device is not None:
        least = device_bytes(measured, smallest) / (1 - KEPT_FREE)
        which, stated, needed = "budget.gpu_memory", device, least
    else:
        which, stated = "budget.ram", ram
    change = "leave data.batch_size out, or " if is_pinned and smallest > 1 else ""
    return (
        f"{which} must be at least {size_text(_rounded_up(needed))} for this model at batch size "
        f"{smallest}, but got {size_text(stated)}. Raise it, {change}choose a smaller "
        "data.image_size or model.backbone."
    )


def _rounded_up(num_bytes: float) -> int:
    step = 50 * _MIB
    return math.ceil(num_bytes / step) * step


def size_text(num_bytes: float) -> str:
    """Write a size as people do."""
    return f"{num_bytes / _GIB:.2f} GiB" if num_bytes >= _GIB else f"{num_bytes / _MIB:,.0f} MiB"


def time_text(seconds: float) -> str:
    """Write a time as people do."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _advice(
    measured: Measurement,
    sizes: Sequence[int],
    batch_size: int,
    ram: int,
    waits: float,
    epochs: Mapping[str, float],
    stages: Mapping[str, int | None],
) -> list[str]:
    lines, last = [], list(stages)[-1]
    larger = [size for size in sizes if size > batch_size]
    gained = [
        size for size in larger if peak_bytes(measured, size) <= (ram + _GIB) * (1 - KEPT_FREE)
    ]
    if gained:
        now, then = (batch_seconds(measured, last, s) / s for s in (batch_size, gained[-1]))
        lines.append(
            f"One more GiB would allow batches of {gained[-1]}: an epoch of {last} in "
            f"{then / now:.0%} of the time."
        )
    lines.append(f"Ten more minutes are {600 / epochs[last]:,.1f} more epochs of {last}.")
    if waits > _LOADING_LIMITS:
        lines.append(
            f"Loading is the bottleneck, {waits:.0%} of the time is spent waiting for data: "
            "foveate profile says what to do."
        )
    return lines


def _ledger(
    plan: Plan,
    config: RunConfig,
    found: Fingerprint,
    measured: Measurement,
    ram: int,
    is_pinned: bool,
    waits: float,
) -> list[Line]:
    rows = measured.rows
    chosen: Source = "pinned" if is_pinned else "derived"
    tiled = config.data.tiles.size is not None
    size: Source = "pinned" if config.data.image_size or tiled else "derived"
    stated = "data.image_size" if config.data.image_size else "data.tiles"
    beyond = max(plan.peak_bytes - measured.base_bytes, 0)
    lines = [
        Line("data", str(found), "measured", f"the headers of {found.num_looked_at} files"),
        Line(
            "tiles of an epoch" if tiled else "splits",
            f"{rows['train']:,} train, {rows['validation']:,} validation, {rows['test']:,} test",
            "derived",
            "data.splits and what the data gives",
        ),
        Line("backend", f"{plan.backend} on {', '.join(measured.devices)}",
             "derived" if config.runtime.backend == "auto" else "pinned", "runtime.backend"),
        Line("precision", plan.precision, "pinned", "recipe.precision"),
        Line("image size", f"{plan.image_size[0]}x{plan.image_size[1]}", size,
             stated if size == "pinned" else "the backbone's own"),
        Line("effective batch size", str(config.effective_batch_size), "stated",
             "samples of one step"),
        Line("batch size", str(plan.batch_size), chosen,
             "data.batch_size" if is_pinned else "the fastest that fits, the larger where equal"),
        Line("accumulation", f"{plan.gradient_accumulation_steps} batches", "derived",
             "effective batch size / batch size"),
        Line("memory, start", size_text(measured.base_bytes), "measured",
             "libraries, table and model before the first batch"),
        Line("memory, training", f"+ {size_text(beyond)}", "measured",
             "activations, gradients, optimizer, queue; by lines through "
             f"batches of {', '.join(str(one.batch_size) for one in measured.tries)}"),
        Line("memory, peak", f"= {size_text(plan.peak_bytes)} of {size_text(ram)}", "derived",
             f"{KEPT_FREE:.0%} of the budget is kept free"),
        Line("weights", size_text(measured.weight_bytes), "measured", "of the model"),
    ]  # fmt: skip
    for name, count in measured.stages:
        seconds = batch_seconds(measured, name, plan.batch_size)
        lines += [
            Line(f"{name}, rate", f"{plan.batch_size / seconds:,.1f} images/s", "measured",
                 f"a batch takes {seconds:.3f} s"),
            Line(f"{name}, epoch", time_text(plan.epoch_seconds[name]), "derived",
                 "training and validation rows at their rates"),
            Line(f"{name}, epochs", "as many as fit" if count is None else str(count), "stated",
                 "recipe and budget.time"),
        ]  # fmt: skip
    total = (
        f"{time_text(plan.total_seconds)} ± {plan.error:.0%}"
        if plan.total_seconds is not None
        else f"at most {time_text(config.budget.time or 0)}"
    )
    source: Source = "derived" if plan.total_seconds is not None else "stated"
    lines.append(Line("time, in all", total, source, "start, epochs, validation, judging"))
    lines.append(
        Line("bottleneck", plan.bottleneck, "measured", f"{waits:.0%} of the time waiting")
    )
    return lines
