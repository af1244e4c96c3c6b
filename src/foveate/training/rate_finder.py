"""The learning-rate finder: the first stage of a run, tried with a rate that rises.

The range test goes through the very loader, optimizer and loss of a run. Its model is nobody's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice, repeat
from typing import Any

import keras
import numpy as np
from rich.console import Console

from foveate.config.settings import RunConfig
from foveate.data.features import FeatureFiles
from foveate.data.loader import BatchLoader
from foveate.errors import RunError
from foveate.models.build import build_model, split_model
from foveate.scale import runtime
from foveate.training.features import Report, not_stored, stored_features
from foveate.training.fitting import compile_stage
from foveate.training.prepare import Prepared
from foveate.training.progress import counting
from foveate.training.rate_curve import Ending, RateCurve, has_diverged
from foveate.training.stages import Stage, plan_stages
from foveate.training.views import settle_views, with_views

RATES: tuple[float, ...] = tuple(np.geomspace(1e-6, 10.0, 7 * 12 + 1).tolist())
"""What is tried: twelve steps while the rate rises tenfold, as many as is usual."""
_SECONDS = 60.0  # that all steps may take, unless they would have too few samples
_FEWEST = 4  # samples of a step
_TIMED_STEPS = 3  # the fastest counts: any may wait for what else the machine does
_ROWS = 512  # whose features are computed
_IMAGES_IN_TILES = 8  # that are decoded: each of them takes its time


def find_rate(prepared: Prepared, config: RunConfig, console: Console | None = None) -> RateCurve:
    """Make a learning-rate range test of the first stage of a run.

    The seed decides all of it, save that steps have fewer samples than those of a run where they
    would take longer than a minute. What is suggested hardly depends on that: while a training
    begins, gradients of few and of many samples agree (McCandlish et al., "An Empirical Model of
    Large-Batch Training", 2018).

    Args:
        prepared: Data and task.
        config: The settings; `recipe.learning_rate` changes nothing.
        console: Where progress is shown; nowhere when None.

    Returns:
        The loss by rate, and what follows from it.

    Raises:
        RunError: The loss is not finite from the first step on.
        FoveateError: As for `foveate.training.recipe.train`.
    """
    console = console or Console(quiet=True)
    with runtime.dtype_policy(config.recipe.precision):
        model = build_model(config.model, prepared.model_inputs, prepared.task, config.seed)
    config = settle_views(config, prepared, model)
    stage = plan_stages(config)[0]
    with (
        _feeding(prepared, config, model, stage, console) as (fitted, loader, cycle),
        counting(console, "raising the learning rate") as report,
    ):
        return _raise_rate(fitted, loader, cycle, stage.name, report)


@contextmanager
def _feeding(
    prepared: Prepared, config: RunConfig, model: keras.Model, stage: Stage, console: Console
) -> Iterator[tuple[keras.Model, BatchLoader, int]]:
    """Give what is fitted, compiled; on what; and the batches of a step.

    Features of some images stand for those of all.
    """
    features = None
    if stage.name == "frozen" and config.recipe.frozen_views:
        most = _ROWS if prepared.tiles.size is None else _IMAGES_IN_TILES
        few, of_one = _few_rows(prepared, config, most), with_views(config, 1)
        trunk, fitted = split_model(model)
        features = _features(few, of_one, trunk, console)
    if features is not None:
        config = of_one
        loader = few.loader("train", config, augment=None, features=features, processes=0)
        compile_stage(model, stage, few, config, fitted)
    else:
        if prepared.tiles.size is not None:
            prepared = _few_rows(prepared, config, _IMAGES_IN_TILES)
        config, loader = _in_time(prepared, config, model, stage)
        fitted = model
    try:
        yield fitted, loader, config.gradient_accumulation_steps
    finally:
        loader.close()


def _features(
    prepared: Prepared, config: RunConfig, trunk: keras.Model, console: Console
) -> FeatureFiles | None:
    """Compute them; None where they cannot be stored, as a run goes over the images there, too."""
    try:
        with counting(console, "computing features") as report:
            return stored_features(config, prepared, trunk, "train", report)
    except OSError as error:
        told = f"Features of images {not_stored(error)}: the test goes over the images."
        console.print(told, highlight=False, markup=False, soft_wrap=True)
        return None


def _few_rows(prepared: Prepared, config: RunConfig, most: int) -> Prepared:
    """Keep training rows drawn at random, in their order."""
    train = prepared.manifest.split("train")
    drawn = np.random.default_rng(config.seed).permutation(train.num_samples)[:most]
    return replace(prepared, manifest=train.take(np.sort(drawn)))


def _in_time(
    prepared: Prepared, config: RunConfig, model: keras.Model, stage: Stage
) -> tuple[RunConfig, BatchLoader]:
    """Compile; make the steps smaller, by halves, where those of a run would take too long."""
    compile_stage(model, stage, prepared, config)
    loader = prepared.loader("train", config)
    batches, cycle = _endless(loader), config.gradient_accumulation_steps
    _step(model, batches, cycle, RATES[0])  # builds the graph
    times = []
    for _ in range(_TIMED_STEPS):
        started = time.perf_counter()
        _step(model, batches, cycle, RATES[0])
        times.append(time.perf_counter() - started)
    seconds = min(times) * len(RATES)
    whole = size = cycle * loader.batch_size
    while size > _FEWEST and seconds * size / whole > _SECONDS:
        size = max(size // 2, _FEWEST)
    if size == whole:
        return config, loader
    loader.close()
    config = _with_step(config, size)
    compile_stage(model, stage, prepared, config)
    return config, prepared.loader("train", config)


def _with_step(config: RunConfig, size: int) -> RunConfig:
    """Take steps of one batch of another size."""
    data = config.data.model_copy(update={"batch_size": size})
    whole = {"gradient_accumulation_steps": None, "effective_batch_size": None}
    recipe = config.recipe.model_copy(update=whole)
    return config.model_copy(update={"data": data, "recipe": recipe})


def _raise_rate(
    model: keras.Model, loader: BatchLoader, cycle: int, stage: str, report: Report
) -> RateCurve:
    """Train until the loss diverges, or to the highest rate."""
    batches = _endless(loader)
    losses: list[float] = []
    ended: Ending = "reached the end"
    for number, rate in enumerate(RATES, start=1):
        loss = _step(model, batches, cycle, rate)
        if not math.isfinite(loss):
            if not losses:
                raise RunError(
                    f"A range test must begin with a finite loss, but got {loss} before anything "
                    "was learned. Some sample weight or metadata value may be too large."
                )
            ended = "diverged"
            break
        losses.append(loss)
        report(number, len(RATES))
        if has_diverged(RATES[:number], losses):
            ended = "diverged"
            break
    size = cycle * loader.batch_size
    return RateCurve(stage, size, RATES[: len(losses)], tuple(losses), ended)


def _endless(loader: BatchLoader) -> Iterator[Any]:
    return chain.from_iterable(repeat(loader))  # small sets have but a few batches


def _step(model: keras.Model, batches: Iterator[Any], cycle: int, rate: float) -> float:
    """Take a step of `cycle` batches, whose gradients are averaged; gives their mean loss."""
    # TensorFlow keeps every Python number it has ever been given; an array it lets go.
    model.optimizer.learning_rate = np.asarray(rate, np.float32)
    losses = []
    for batch in islice(batches, cycle):
        model.reset_metrics()  # else the loss is that of all batches so far
        losses.append(float(model.train_on_batch(*batch, return_dict=True)["loss"]))
    return sum(losses) / cycle
