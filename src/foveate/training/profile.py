"""What limits a training on this machine: files, decoding, or the model; all of it measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import keras

from foveate import machine
from foveate.config.settings import RunConfig
from foveate.data.loader import BatchLoader
from foveate.data.parts import Sample, Source, decode_rate, read_rate, time_parts
from foveate.data.profile import LoadTimes, repacked, sharp_side, time_loading
from foveate.data.storage import Storage
from foveate.errors import ConfigError
from foveate.models.build import build_model
from foveate.scale import runtime
from foveate.training.fitting import compile_stage
from foveate.training.loading import source_of
from foveate.training.prepare import Prepared, prepare
from foveate.training.stages import plan_stages

_SECONDS = 2.0  # of each measurement of a whole loader or model
_WARM_STEPS = 2
_HARDLY = 0.05  # share of the time; a model that waits for data no longer is not held up by it


@dataclass(frozen=True)
class Packing:
    """What packing at a short side would bring.

    Attributes:
        side: In pixels.
        file_bytes: Mean size of the files that were encoded again.
        left: Part of the time to decode and to change an image that would be left.
    """

    side: int
    file_bytes: float
    left: float


@dataclass(frozen=True)
class Profile:
    """What was measured.

    Attributes:
        times: Where the time of one thread goes.
        threads: Threads that the settings give the loader.
        loading: Images a second of the whole loader once it runs, by threads.
        decoding: Images a second of decoding alone, on as many threads.
        reading: Images a second of reading alone, again, on as many threads.
        models: Images a second of the model, by stage; empty where it was left out.
        wait_share: Share of the fastest stage's time that it waits for data; None without.
        packing: What smaller files would bring; None where images are no larger than needed.
    """

    times: LoadTimes
    threads: int
    loading: dict[int, float]
    decoding: float
    reading: float
    models: dict[str, float]
    wait_share: float | None
    packing: Packing | None

    @property
    def speed(self) -> float:
        """Images a second of the loader as the settings have it."""
        return self.loading[self.threads]

    @property
    def bottleneck(self) -> str:
        """``model``, ``disk``, or the part of loading that takes most of its time."""
        if self.models and max(self.models.values()) < self.speed:
            return "model"
        if self.wait_share is not None and self.wait_share < _HARDLY:
            return "model"
        shares = self.times.shares
        largest = max(shares, key=shares.__getitem__)
        return "disk" if largest == "read" else largest

    @property
    def packed_speed(self) -> float | None:
        """Images a second to expect of the loader on packed files."""
        if self.packing is None:
            return None
        times = self.times
        changed = times.decode + times.warp + times.colour
        return self.speed * times.total / (times.total - changed * (1.0 - self.packing.left))


def profile(data: Any, config: RunConfig, with_model: bool = True) -> Profile:
    """Measure loading, and training on what is loaded, at the settings of a run.

    Args:
        data: As for `foveate.training.recipe.train`.
        config: The settings.
        with_model: Whether to build the model and measure its steps.

    Returns:
        What was measured, mostly on the first batches of the first epoch.

    Raises:
        ConfigError: Images are read in tiles.
        FoveateError: As for `foveate.training.recipe.train`.
    """
    if config.data.tiles.size is not None:
        raise ConfigError(
            "profile measures how whole images are loaded, but got data.tiles "
            f"{config.data.tiles.size}. Leave it out; foveate plan measures a run in tiles."
        )
    prepared = prepare(data, config)
    loader = prepared.loader("train", config)
    threads = config.loader.threads or machine.cpu_count()
    with Storage(config.cache_bytes) as storage:
        source = source_of(prepared, config, storage)
        times, samples = time_loading(loader, source)
        decoding = decode_rate(source, samples, threads)
        reading = read_rate(source, samples, threads)
        packing = _packing(source, samples)
    loading = {count: _loader_speed(prepared, config, count) for count in _counts(threads)}
    models, wait_share = _model_speeds(prepared, config) if with_model else ({}, None)
    return Profile(times, threads, loading, decoding, reading, models, wait_share, packing)


def _packing(source: Source, samples: list[Sample]) -> Packing | None:
    side = sharp_side(source, samples)
    if side is None:
        return None
    small = repacked(source, samples, side)
    before, after = (
        sum(time_parts(source, files).values()) for files in (samples[: len(small)], small)
    )
    num_bytes = sum(len(sample.image.data) for sample in small)
    return Packing(side, num_bytes / len(small), after / before)


def _counts(threads: int) -> list[int]:
    """Numbers of threads to try: powers of two to the processors, and what is set."""
    most = max(machine.cpu_count(), threads)
    return sorted({threads, most, *(2**power for power in range(most.bit_length()))})


def _loader_speed(prepared: Prepared, config: RunConfig, threads: int) -> float:
    """Images a second of a loader, from its first batch on."""
    setting = config.loader.model_copy(update={"threads": threads})
    loader = prepared.loader("train", config.model_copy(update={"loader": setting}))
    batches = _endless(loader)
    next(batches)  # what is imported and started for it is no loading
    images, started = 0, time.perf_counter()
    for inputs, *_ in batches:
        images += len(inputs["images"])
        elapsed = time.perf_counter() - started
        if elapsed > _SECONDS:
            break
    loader.close()
    return images / elapsed


def _model_speeds(prepared: Prepared, config: RunConfig) -> tuple[dict[str, float], float]:
    """Train each stage a little: on one batch, then on what the loader gives.

    Returns:
        Images a second on one batch, by stage, and the share of time that the fastest waits.
    """
    with runtime.dtype_policy(config.recipe.precision):
        model = build_model(config.model, prepared.model_inputs, prepared.task, config.seed)
    loader = prepared.loader("train", config)
    batch = loader.batch_at(0)
    speeds, waits = {}, {}
    for stage in plan_stages(config):
        compile_stage(model, stage, prepared, config)
        speeds[stage.name] = _train_a_little(model, repeat(batch))[0]
        waits[stage.name] = _train_a_little(model, _endless(loader), loader)[1]
    loader.close()
    return speeds, waits[max(speeds, key=speeds.__getitem__)]


def _train_a_little(
    model: keras.Model, batches: Iterator[Any], loader: BatchLoader | None = None
) -> tuple[float, float]:
    """Train for a while; returns images a second, and the share of time spent waiting."""
    for _ in range(_WARM_STEPS):
        model.train_on_batch(*next(batches))
    waited = loader.wait_seconds if loader is not None else 0.0
    images, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < _SECONDS or not images:
        batch = next(batches)
        model.train_on_batch(*batch)
        images += len(batch[0]["images"])
    waited = loader.wait_seconds - waited if loader is not None else 0.0
    return images / elapsed, waited / elapsed


def _endless(loader: BatchLoader) -> Iterator[Any]:
    return chain.from_iterable(repeat(loader))
