"""The largest batch of any Keras model that fits into a budget, found by training on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from foveate import machine
from foveate.config.settings import BudgetConfig
from foveate.errors import BudgetError, ConfigError
from foveate.planning.memory import forget_peak, peak_bytes
from foveate.planning.plan import size_text
from foveate.planning.sizes import KEPT_FREE
from foveate.scale import runtime

_STEPS = 3  # the first compiles, the next still grow the allocator


def find_batch_size(
    model: keras.Model,
    budget: BudgetConfig,
    batch: tuple[Any, ...] | None = None,
    most: int = 1024,
) -> int:
    """Find the largest power of two that a model can train on at once.

    It trains a few steps on batches of ascending size, until the next would not fit, and puts
    weights, optimizer and metrics back as they were. What this process takes beside the model
    counts.

    Args:
        model: Any compiled Keras model.
        budget: `ram`, `gpu_memory`; what the machine has where neither is stated.
        batch: Something that ``train_on_batch`` takes: (inputs, targets) or (inputs, targets,
            weights), arrays of at least one sample. When not given, zeros of the model's input
            and output shapes, or class ids where its loss is a sparse one.
        most: Largest size to try.

    Returns:
        A power of two, at most `most`.

    Raises:
        ConfigError: The model is not compiled, or its shapes are open and there is no batch.
        BudgetError: Not even a single sample fits.
    """
    if not model.compiled:
        raise ConfigError("find_batch_size trains a little, so the model must be compiled first.")
    batch = batch or _zeros(model)
    if not model.optimizer.built:  # else the first step would, and what it learns would stay
        model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [(variable, np.array(variable)) for variable in variables]
    ram = budget.ram or machine.memory_bytes()
    try:
        return _search(model, batch, (ram, budget.gpu_memory), most)
    finally:
        for variable, value in before:
            variable.assign(value)
        model.reset_metrics()


def _search(
    model: keras.Model, batch: tuple[Any, ...], limits: tuple[int, int | None], most: int
) -> int:
    size, fitting, peaks = 1, 0, [0.0, 0.0]
    while size <= most:
        try:
            last, peaks = peaks, _peaks(model, batch, size)
        except Exception as error:
            if not runtime.lacks_device_memory(error):
                raise
            break
        if _exceeded(peaks, limits):
            break
        fitting = size
        # Twice the samples take at most twice what they added, as seen from half of them.
        grown = [peak + 2 * max(peak - old, 0) for peak, old in zip(peaks, last, strict=True)]
        if fitting > 1 and _exceeded(grown, limits):
            break
        size *= 2
    if not fitting and not any(peaks):
        raise BudgetError(
            "The accelerator must hold a batch of one sample, but has not enough memory that is "
            "free. Free some, or take a smaller model or image size."
        )
    if not fitting:
        which, taken, stated = _exceeded(peaks, limits)[0]
        raise BudgetError(
            f"The budget must hold a batch of one sample, which takes {size_text(taken)} of "
            f"memory, but got {which} {size_text(stated)}. Raise it, or take a smaller "
            "model or image size."
        )
    return fitting


def _exceeded(
    peaks: Sequence[float], limits: tuple[int, int | None]
) -> list[tuple[str, float, int]]:
    """Name each limit that is not kept to, with what is taken and what was stated."""
    names = ("budget.ram", "budget.gpu_memory")
    return [
        (name, peak, limit)
        for name, peak, limit in zip(names, peaks, limits, strict=True)
        if limit is not None and peak > limit * (1 - KEPT_FREE)
    ]


def _peaks(model: keras.Model, batch: tuple[Any, ...], size: int) -> list[float]:
    """Most memory of the process, and of the accelerator, while it trains on so many samples."""
    repeated = keras.tree.map_structure(
        lambda array: np.resize(array, (size, *np.shape(array)[1:])), batch
    )
    forget_peak()
    for _ in range(_STEPS):
        model.train_on_batch(*repeated)
    return [peak_bytes(), runtime.peak_device_bytes() or 0]


def _zeros(model: keras.Model) -> tuple[Any, ...]:
    if not getattr(model, "inputs", None):
        raise ConfigError("find_batch_size needs a batch for this model, as its inputs are open.")

    def of(tensor: Any) -> Any:
        if None in tensor.shape[1:]:
            raise ConfigError(
                f"find_batch_size needs a batch where a shape is open, but got {tensor.shape}; "
                "give one, such as (inputs, targets)."
            )
        return np.zeros((1, *tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype))

    targets = [of(tensor) for tensor in model.outputs]
    if "sparse" in str(getattr(model.loss, "name", model.loss)):
        targets = [array[..., 0].astype("int32") for array in targets]
    inputs = {tensor.name: of(tensor) for tensor in model.inputs}
    only = next(iter(inputs.values()))
    return inputs if len(inputs) > 1 else only, targets if len(targets) > 1 else targets[0]
