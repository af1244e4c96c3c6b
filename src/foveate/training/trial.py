"""A trial of a run, for a process of its own: how long steps take, and how much memory.

`foveate.planning.measure` starts it. It trains a model with random changes of its weights that
nobody keeps, through the very loader, stages and `fit` of a run.
"""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import keras
import numpy as np
import psutil

from foveate.config.files import load_config
from foveate.config.settings import RunConfig
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest
from foveate.models.build import build_model, split_model
from foveate.planning.guard import MemoryGuard
from foveate.planning.memory import give_back, peak_bytes, resident_bytes
from foveate.scale import runtime
from foveate.scale.allocation import settle_allocation
from foveate.training.callbacks import GiveBack
from foveate.training.fitting import compile_stage
from foveate.training.loading import load_seconds
from foveate.training.prepare import Prepared, prepare
from foveate.training.resizing import most_sizes
from foveate.training.stages import Stage, plan_stages
from foveate.training.trial_tiles import decoding_bytes, few_images
from foveate.training.views import cached_bytes, settle_views, stored_bytes, weight_bytes

_PREPARED = "prepared.pickle"
_WARM_BATCHES = 5  # the first compiles, the next may take up to a third longer than later ones
_BATCHES = 5  # timed, at least
_MOST_BATCHES = 100  # of small steps
_STEPS_SECONDS = 8.0  # of steps, timed, at least: from one second to the next they differ by 15 %
_NO_LIMIT = 2**62
_SECONDS = 2.0  # of all else, timed, at least


def try_out(folder: Path) -> None:
    """Measure what a request asks for, and write the answer.

    Args:
        folder: Holds ``manifest.parquet``, ``config.toml`` and ``request.json`` with the batch
            size and the precision to try. Gets ``answer.json``: what is to know of data and
            model, and the `foveate.planning.measurement.Try`. The first trial leaves what it found
            out about the data for the others.
    """
    request = json.loads((folder / "request.json").read_text())
    config = _with_batch(load_config(folder / "config.toml"), request["batch_size"])
    config = _as_asked(config, request)
    settle_allocation(config)
    is_first = not (folder / _PREPARED).exists()
    prepared = _prepared(folder, config)
    keras.utils.set_random_seed(config.seed)
    began = time.perf_counter()
    with runtime.dtype_policy(config.recipe.precision):
        model = build_model(config.model, prepared.model_inputs, prepared.task, config.seed)
    building = time.perf_counter() - began
    config = settle_views(config, prepared, model)
    give_back()
    about = _about(prepared, config, model)
    tried, decoding = prepared, 0
    if config.data.tiles.size is not None:
        tried = few_images(prepared, config.effective_batch_size)
        decoding = decoding_bytes(tried, config)
    with MemoryGuard(_NO_LIMIT) as guard:
        measured = _measure(tried, config, model)
    if measured["processes"]:
        measured["peak_bytes"] = guard.peak_bytes
    measured["peak_bytes"] += decoding
    measured["size_seconds"] += building
    # No run does the rest: its memory is none of the peak.
    about["image_sizes"] = most_sizes(config, prepared, model)  # builds another
    if is_first:
        about["load_seconds"] = load_seconds(prepared, config)
    (folder / "answer.json").write_text(json.dumps({"about": about, "try": measured}))


def _prepared(folder: Path, config: RunConfig) -> Prepared:
    known = folder / _PREPARED
    if known.exists():  # reading all masks again would take its time
        found: Prepared = pickle.loads(known.read_bytes())  # noqa: S301  our own, of just now
        return found
    prepared = prepare(Manifest.load(folder / "manifest.parquet"), config)
    known.write_bytes(pickle.dumps(prepared))
    return prepared


def _about(prepared: Prepared, config: RunConfig, model: keras.Model) -> dict[str, Any]:
    loader = prepared.loader("train", config)
    return {
        "backend": keras.backend.backend(),
        "devices": runtime.devices(),
        "image_size": prepared.image_size,
        "stages": [(stage.name, stage.epochs) for stage in plan_stages(config)],
        "base_bytes": resident_bytes(),
        "startup_seconds": _age(),
        "rows": {
            "train": prepared.rows("train").num_samples,
            "validation": prepared.rows("validation").num_samples,
            "test": prepared.num_judged("test"),
        },
        "judged": prepared.num_judged("test") or prepared.num_judged("validation"),
        "epoch_samples": len(loader) * loader.batch_size,
        "weight_bytes": weight_bytes(model),
        "frozen_views": config.recipe.frozen_views,
        "feature_bytes": stored_bytes(prepared, model, config.recipe.frozen_views or 0),
        "caches": cached_bytes(config, prepared) > 0,
        "has_bfloat16": runtime.has_bfloat16(),
        "class_counts": dict(
            zip(prepared.task.class_names, prepared.class_counts.tolist(), strict=True)
        ),
        "counts_pixels": prepared.task.per_pixel,
    }


def _as_asked(config: RunConfig, request: Mapping[str, Any]) -> RunConfig:
    recipe = config.recipe.model_copy(
        update={"precision": request["precision"], "unfreeze": request["unfreeze"]}
    )
    loader = config.loader.model_copy(update={"processes": request["processes"]})
    return config.model_copy(update={"recipe": recipe, "loader": loader})


def _age() -> float:
    """Seconds since this process was started."""
    return time.time() - psutil.Process().create_time()


def _with_batch(config: RunConfig, batch_size: int) -> RunConfig:
    """The same step in batches of another size."""
    data = config.data.model_copy(update={"batch_size": batch_size})
    steps = max(config.effective_batch_size // batch_size, 1)
    recipe = config.recipe.model_copy(
        update={"gradient_accumulation_steps": steps, "effective_batch_size": None}
    )
    return config.model_copy(update={"data": data, "recipe": recipe})


def _measure(prepared: Prepared, config: RunConfig, model: keras.Model) -> dict[str, Any]:
    stages, waits, forward, compiling, last, steady = {}, {}, 0.0, 0.0, 0.0, 0
    loader = prepared.loader("train", config)
    for stage in plan_stages(config):
        if stage.name == "frozen" and config.recipe.frozen_views:
            first, forward, stages[stage.name] = _on_features(prepared, config, model, stage)
            waits[stage.name] = 0.0
            steady = max(steady, resident_bytes())
            compiling += first
            continue
        watch = _StepTimes(loader)
        compile_stage(model, stage, prepared, config)
        # As many epochs as it takes: small sets have but a few batches.
        model.fit(loader, epochs=10_000, shuffle=False, verbose=0, callbacks=[GiveBack(), watch])
        # Where there are fewer samples than a batch is to have, its batches have no more.
        whole = config.batch_size / loader.batch_size
        stages[stage.name] = [whole * seconds for seconds in watch.seconds]
        steady = max(steady, watch.resident_bytes)
        compiling += watch.compiling
        last = watch.compiling
        waits[stage.name] = watch.wait_share
        loader.close()
    first, validation = _validation_seconds(prepared, config, model)
    # A stage on images compiles its own validation, and so does the judging in the end.
    compiling += first * (1 + len(stages) - bool(forward))
    return {
        "batch_size": config.batch_size,
        "peak_bytes": peak_bytes(),
        "steady_bytes": steady,
        "device_bytes": runtime.peak_device_bytes(),
        "stage_seconds": stages,
        "wait_shares": waits,
        "validation_seconds": validation,
        "forward_seconds": forward,
        "compile_seconds": compiling,
        "size_seconds": last + first,
        "precision": config.recipe.precision,
        "processes": config.loader.processes or 0,
        "unfreeze": config.recipe.unfreeze,
    }


def _on_features(
    prepared: Prepared, config: RunConfig, model: keras.Model, stage: Stage
) -> tuple[float, float, list[float]]:
    """Try out a stage on features.

    Returns:
        Seconds of compiling; of computing the features of a sample, loading included; and of
        each step on features.
    """
    trunk, head = split_model(model)
    loader = prepared.loader("train", config)
    images, *others = loader.batch_at(0)
    began = time.perf_counter()
    inputs = trunk.predict_on_batch(images.pop("images")) | images
    samples, started = 0, time.perf_counter()
    while time.perf_counter() - started < _SECONDS:
        for batch in loader:
            trunk.predict_on_batch(batch[0]["images"])
            samples += loader.batch_size
            if time.perf_counter() - started > _SECONDS:
                break
    loader.close()
    compile_stage(model, stage, prepared, config, head)
    ends = [time.perf_counter()]
    forward = (ends[0] - started) / samples
    for _ in range(_WARM_BATCHES + _BATCHES):
        head.train_on_batch(inputs, *others)
        ends.append(time.perf_counter())
    compiling = started - began + ends[1] - ends[0]
    steps = np.diff(ends[_WARM_BATCHES:]).tolist()
    once = loader.batch_size * forward + mean(steps)  # what was computed after compiling
    return max(compiling - once, 0.0), forward, steps


class _StepTimes(keras.callbacks.Callback):
    """Takes the time from the end of a batch to the end of the next, loading included.

    What other callbacks do at the end of an epoch a run does but once: it does not count, so that
    this one must be the last.

    Args:
        loader: What is waited for.
    """

    def __init__(self, loader: BatchLoader) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._loader = loader
        self._seen, self._last, self._first = 0, 0.0, time.perf_counter()
        self._warming = self._waited = 0.0
        self.resident_bytes = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note the time; stop where there is enough of it."""
        now = time.perf_counter()
        self._seen += 1
        if self._seen == _WARM_BATCHES:
            self._warming, self._waited = now - self._first, self._loader.wait_seconds
        if self._seen > _WARM_BATCHES:
            self.seconds.append(now - self._last)
        self._last = now
        is_long = sum(self.seconds) >= _STEPS_SECONDS
        if len(self.seconds) >= (_BATCHES if is_long else _MOST_BATCHES):
            self.resident_bytes = resident_bytes()
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Begin the next step now."""
        self._last = time.perf_counter()

    @property
    def compiling(self) -> float:
        """Seconds that the first steps took longer than those that were timed."""
        return max(self._warming - _WARM_BATCHES * mean(self.seconds), 0.0)

    @property
    def wait_share(self) -> float:
        """Share of the time that was spent waiting for data, without the first steps."""
        waited = self._loader.wait_seconds - self._waited
        return min(waited / max(self._last - self._first - self._warming, 1e-9), 1.0)


def _validation_seconds(
    prepared: Prepared, config: RunConfig, model: keras.Model
) -> tuple[float, float]:
    """Seconds of compiling, and of judging a sample, loading included; 0 with nothing held out."""
    splits = [name for name in ("validation", "test") if prepared.manifest.split(name).num_samples]
    if not splits:
        return 0.0, 0.0
    loader = prepared.loader(splits[0], config)
    batch, began = loader.batch_at(0), time.perf_counter()
    num_first = len(batch[0]["images"])
    model.test_on_batch(*batch)
    samples, started = 0, time.perf_counter()
    for batch in loader:
        if samples and len(batch[0]["images"]) < loader.batch_size:
            break  # another size would be compiled anew
        model.test_on_batch(*batch)
        samples += len(batch[0]["images"])
        if time.perf_counter() - started > _SECONDS:
            break
    loader.close()
    each = (time.perf_counter() - started) / samples
    return max(started - began - num_first * each, 0.0), each
