"""A trial of a run, for a process of its own: how long steps take, and how much memory.

`foveate.planning.measure` starts it. It trains a model with random changes of its weights that
nobody keeps, through the very loader, stages and `fit` of a run.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil

from foveate.config.files import load_config
from foveate.config.settings import RunConfig
from foveate.data.manifest import Manifest
from foveate.models.build import build_model, split_model
from foveate.planning.memory import forget_peak, peak_bytes, resident_bytes
from foveate.scale import runtime
from foveate.training.fitting import compile_stage
from foveate.training.prepare import Prepared, prepare
from foveate.training.stages import Stage, plan_stages
from foveate.training.trial_tiles import decoding_bytes, few_images
from foveate.training.views import settle_views, stored_bytes

_WARM_BATCHES = 3  # the first compiles, the next still grow the allocator
_BATCHES = 4  # timed, at least
_SECOND_SIZE = 3  # sizes after the first of which the second is one
_SHARE_OF_A_SAMPLE = 0.25
"""What a sample takes at most of the memory that the first batch adds, if it is one sample; on
EfficientNet-Lite0 and its U-Net it was 0.17 to 0.23."""
_SECONDS = 2.0  # timed, at least


def try_out(folder: Path) -> None:
    """Measure what a request asks for, and write each answer as soon as it is known.

    Args:
        folder: Holds ``manifest.parquet``, ``config.toml`` and ``request.json`` with the batch
            sizes that may be tried, ascending, the memory that no try should exceed as far as can
            be told from those before, and the seconds after which no third one begins. Gets
            ``answers.jsonl``: a line about the data and the model, then one a batch size.
    """
    request = json.loads((folder / "request.json").read_text())
    config = load_config(folder / "config.toml")
    with (folder / "answers.jsonl").open("w") as answers:
        for answer in _answers(Manifest.load(folder / "manifest.parquet"), config, request):
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _answers(
    manifest: Manifest, config: RunConfig, request: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    prepared = prepare(manifest, config)
    keras.utils.set_random_seed(config.seed)
    model = _build(prepared, config)
    config = settle_views(config, prepared, model)
    base = resident_bytes()
    yield {
        "backend": keras.backend.backend(),
        "devices": runtime.devices(),
        "image_size": prepared.image_size,
        "stages": [(stage.name, stage.epochs) for stage in plan_stages(config)],
        "base_bytes": base,
        "startup_seconds": _age(),
        "rows": {
            "train": prepared.rows("train").num_samples,
            "validation": prepared.rows("validation").num_samples,
            "test": prepared.num_judged("test"),
        },
        "weight_bytes": sum(weight.nbytes for weight in model.get_weights()),
        "frozen_views": config.recipe.frozen_views,
        "feature_bytes": stored_bytes(prepared, model, config.recipe.frozen_views or 0),
    }
    decoding = 0
    if config.data.tiles.size is not None:
        prepared = few_images(prepared)
        decoding = decoding_bytes(prepared, config)
    peaks: dict[int, int] = {}
    while (size := _next_size(request["batch_sizes"], peaks, base, request["limit"])) is not None:
        if len(peaks) > 1 and _age() > request["seconds"]:
            return  # nor is there time for another precision
        answer = _measure(prepared, _with_batch(config, size), model)
        answer["peak_bytes"] += decoding
        peaks[size] = answer["peak_bytes"]
        yield answer
    if config.recipe.precision == "auto" and runtime.has_bfloat16():
        del model
        gc.collect()
        config = _with_precision(config, "mixed_bfloat16")
        size = sorted(peaks)[len(peaks) // 2]
        yield _measure(prepared, _with_batch(config, size), _build(prepared, config))


def _build(prepared: Prepared, config: RunConfig) -> keras.Model:
    with runtime.dtype_policy(config.recipe.precision):
        return build_model(config.model, prepared.model_inputs, prepared.task, config.seed)


def _with_precision(config: RunConfig, precision: str) -> RunConfig:
    recipe = config.recipe.model_copy(update={"precision": precision})
    return config.model_copy(update={"recipe": recipe})


def _next_size(
    sizes: Sequence[int], peaks: Mapping[int, int], base: int, limit: int
) -> int | None:
    """The smallest size, one a little larger, then the largest that these let hope to fit."""
    if not peaks:
        return sizes[0]
    left = [size for size in sizes if size > max(peaks)]
    if len(peaks) == 1:
        # Most of what the first batch took is there once, for code and workspaces.
        (first, peak), left = next(iter(peaks.items())), left[: _SECOND_SIZE - 1]
        each = (peak - base) * _SHARE_OF_A_SAMPLE / first
        fitting = [size for size in left if peak + each * (size - first) <= limit]
    elif len(peaks) == 2:
        fitting = [size for size in left if _expected(peaks, size) <= limit]
    else:
        fitting = []
    return fitting[-1] if fitting else None


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


def _expected(peaks: Mapping[int, int], batch_size: int) -> float:
    """What the last two sizes let expect of the next."""
    (size, peak), (larger, larger_peak) = sorted(peaks.items())[-2:]
    slope = max(larger_peak - peak, 0) / (larger - size)
    return larger_peak + slope * (batch_size - larger)


def _measure(prepared: Prepared, config: RunConfig, model: keras.Model) -> dict[str, Any]:
    forget_peak()
    stages, waits, forward = {}, {}, 0.0
    loader = prepared.loader("train", config)
    for stage in plan_stages(config):
        if stage.name == "frozen" and config.recipe.frozen_views:
            forward, stages[stage.name] = _on_features(prepared, config, model, stage)
            waits[stage.name] = 0.0
            continue
        compile_stage(model, stage, prepared, config)
        watch = _StepTimes()
        waited = loader.wait_seconds
        # As many epochs as it takes: small sets have but a few batches.
        model.fit(loader, epochs=10_000, shuffle=False, verbose=0, callbacks=[watch])
        stages[stage.name] = watch.seconds
        waits[stage.name] = (loader.wait_seconds - waited) / max(watch.total, 1e-9)
        loader.close()
    validation = _validation_seconds(prepared, config, model)
    return {
        "batch_size": config.batch_size,
        "peak_bytes": peak_bytes(),
        "device_bytes": runtime.peak_device_bytes(),
        "stage_seconds": stages,
        "wait_shares": waits,
        "validation_seconds": validation,
        "forward_seconds": forward,
        "precision": "float32" if config.recipe.precision == "auto" else config.recipe.precision,
    }


def _on_features(
    prepared: Prepared, config: RunConfig, model: keras.Model, stage: Stage
) -> tuple[float, list[float]]:
    """Seconds of computing the features of a sample, loading included; and of steps on them."""
    trunk, head = split_model(model)
    loader = prepared.loader("train", config)
    images, *others = loader.batch_at(0)
    inputs = trunk.predict_on_batch(images.pop("images")) | images  # compiles
    samples, started = 0, time.perf_counter()
    while time.perf_counter() - started < _SECONDS:
        for batch in loader:
            trunk.predict_on_batch(batch[0]["images"])
            samples += loader.batch_size
            if time.perf_counter() - started > _SECONDS:
                break
    forward = (time.perf_counter() - started) / samples
    loader.close()
    compile_stage(model, stage, prepared, config, head)
    ends = []
    for _ in range(_WARM_BATCHES + _BATCHES):
        head.train_on_batch(inputs, *others)
        ends.append(time.perf_counter())
    return forward, np.diff(ends[_WARM_BATCHES - 1 :]).tolist()


class _StepTimes(keras.callbacks.Callback):
    """Takes the time from the end of a batch to the end of the next, loading included."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._seen, self._last, self._first = 0, 0.0, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note the time; stop where there is enough of it."""
        now = time.perf_counter()
        self._seen += 1
        if self._seen > _WARM_BATCHES:
            self.seconds.append(now - self._last)
        self._last = now
        if len(self.seconds) >= _BATCHES and sum(self.seconds) >= _SECONDS:
            self.model.stop_training = True

    @property
    def total(self) -> float:
        """Seconds of all batches, warm-up included."""
        return self._last - self._first


def _validation_seconds(prepared: Prepared, config: RunConfig, model: keras.Model) -> float:
    """Seconds that judging a sample takes, loading included; 0 where nothing is held out."""
    splits = [name for name in ("validation", "test") if prepared.manifest.split(name).num_samples]
    if not splits:
        return 0.0
    loader = prepared.loader(splits[0], config)
    model.test_on_batch(*loader.batch_at(0))  # compiles
    samples, started = 0, time.perf_counter()
    for batch in loader:
        if samples and len(batch[0]["images"]) < loader.batch_size:
            break  # another size would be compiled anew
        model.test_on_batch(*batch)
        samples += len(batch[0]["images"])
        if time.perf_counter() - started > _SECONDS:
            break
    loader.close()
    return (time.perf_counter() - started) / samples
