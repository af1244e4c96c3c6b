"""What was measured of a run on this machine, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from foveate.config.recipe import Precision
from foveate.config.settings import Backend

LOADING_LIMITS = 0.2
"""Share of the time spent waiting above which loading is the bottleneck."""
WAYS = ("precision", "unfreeze", "processes")
"""What a try may do otherwise than those before it: attributes of `Try`."""
LESS_UNFROZEN = 0.6
"""Share of the backbone's layers that a plan has trained where all would take too much. The first
layers see the most pixels: without them, a step of EfficientNet-Lite0 on 32 images of 224x224
takes 0.80 s instead of 1.45, and its process 986 MiB instead of 1.55 GiB, on two cores."""


@dataclass(frozen=True)
class Try:
    """A training at one batch size.

    Attributes:
        batch_size: Samples of a batch.
        peak_bytes: Highest resident memory of the process.
        steady_bytes: The same after the last batch of training, when compiling is over.
        device_bytes: Highest memory of the accelerator; None without one.
        stage_seconds: Seconds of each timed batch, loading included, by stage.
        wait_shares: Share of the time that was spent waiting for data, by stage.
        validation_seconds: Seconds that judging a sample takes.
        forward_seconds: Seconds that computing the features of a sample takes; 0 where none are.
        compile_seconds: Seconds that a run takes to compile, all stages and the judging together.
        size_seconds: Seconds that another image size takes to build and to compile.
        precision: Arithmetic of the layers.
        processes: Other processes that loaded the images; 0 for threads alone.
        unfreeze: Share of the backbone's layers that the fine_tune stage trains.
    """

    batch_size: int
    peak_bytes: int
    steady_bytes: int
    device_bytes: int | None
    stage_seconds: dict[str, list[float]]
    wait_shares: dict[str, float]
    validation_seconds: float
    forward_seconds: float = 0.0
    compile_seconds: float = 0.0
    size_seconds: float = 0.0
    precision: Precision = "float32"
    processes: int = 0
    unfreeze: float = 1.0


@dataclass(frozen=True)
class Measurement:
    """What a run does on this machine.

    Attributes:
        backend: The Keras backend that was measured.
        devices: What it computed on.
        image_size: (height, width) the model sees, in pixels.
        stages: Name and number of epochs of each stage; None where the time decides.
        base_bytes: Resident memory before the first batch.
        startup_seconds: From the start of the process to the first batch.
        rows: Samples by split.
        judged: Samples that the finished run is judged on: those of the test split or, where there
            is none, of the validation split. Tiles overlap.
        epoch_samples: What an epoch trains on: repeats counted, without what is left over when
            all whole steps are done.
        weight_bytes: Size of the model's weights.
        tries: In ascending order of batch size, at least one.
        others: At a batch size of these, each with something else than the fastest before it:
            precision, unfrozen share or processes.
        limit: Bytes of memory at which larger batches were not tried any more.
        too_large: Batch size whose trial failed; None where all went well.
        frozen_views: Views of each training image whose features are computed once.
        feature_bytes: Size of these features.
        caches: Whether images are kept in a temporary cache, being far away or cut into tiles.
        image_sizes: How many image sizes the last stage may go through: as stated, or at most.
        too_large_images: (height, width) in pixels that are usual here, but do not fit.
        class_counts: Training images, or pixels of their masks, of each class.
        counts_pixels: Whether they are pixels.
        load_seconds: What loading an image takes on one thread, by part; empty for tiles.
    """

    backend: Backend
    devices: list[str]
    image_size: tuple[int, int]
    stages: list[tuple[str, int | None]]
    base_bytes: int
    startup_seconds: float
    rows: dict[str, int]
    judged: int
    epoch_samples: int
    weight_bytes: int
    tries: list[Try]
    limit: int
    too_large: int | None = None
    frozen_views: int = 0
    feature_bytes: int = 0
    caches: bool = False
    image_sizes: int = 1
    others: list[Try] = field(default_factory=list)
    too_large_images: tuple[int, int] | None = None
    class_counts: dict[str, int] = field(default_factory=dict)
    counts_pixels: bool = False
    load_seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Measurement:
        """Make one from what `dataclasses.asdict` gave, perhaps through JSON."""
        tries = [Try(**values_of_one) for values_of_one in values["tries"]]
        others = [Try(**values_of_one) for values_of_one in values.get("others", [])]
        size, stages = tuple(values["image_size"]), [tuple(stage) for stage in values["stages"]]
        values = {**values, "tries": tries, "others": others}
        return cls(**{**values, "image_size": size, "stages": stages})


def step_seconds(tried: Try) -> float:
    """Mean seconds of a batch in the stage that takes longest."""
    return max(map(mean, tried.stage_seconds.values()))


def levels(tries: Sequence[Try]) -> tuple[dict[int, int], dict[int, int]]:
    """Bytes by batch size: at the peak, and when training is steady."""
    peaks = {one.batch_size: one.peak_bytes for one in tries}
    return peaks, {one.batch_size: one.steady_bytes for one in tries}
