"""How close training from files comes to training on synthetic data in memory.

The model is MobileNetV3Small at 224x224, once with a frozen backbone and once trained whole.
Synthetic data comes in two forms: arrays given to `fit`, which shuffles and gathers them, and one
batch that TensorFlow repeats, which costs nothing at all: what is missing to 1 is then the price
of reading, decoding, augmenting and handing over.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loader import RECIPE
from benchmarks.measuring import Clock, Speed, print_machine, print_ratios, take_turns
from benchmarks.photographs import photograph_folder
from foveate.config.augmentation import AugmentConfig
from foveate.config.recipe import LossConfig, RecipeConfig
from foveate.config.settings import ModelConfig
from foveate.scale import runtime

_SIZE = (224, 224)
_BATCH = 32
_OURS = "foveate"
_STAGES = {"frozen backbone": (0.0, 24), "trained whole": (1.0, 6)}
"""Share of the backbone that is trained, and batches of an epoch."""
_FEEDS = {
    _OURS: AugmentConfig(),
    "preset light": AugmentConfig(preset="light"),
    "preset none": AugmentConfig(preset="none"),
    "loader's recipe": RECIPE,
}
"""How images are augmented. A frozen stage of Foveate's own, which reads each image once to keep
its features, does so with the preset none unless told otherwise."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="class folders of JPEG files of your own")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    runtime.prepare("tensorflow")
    folder = arguments.data or photograph_folder()
    print_machine("foveate", "keras", "tensorflow-cpu", "tensorflow")
    print(f"batches of {_BATCH}, {arguments.rounds} rounds in turn; foveate: the preset standard")
    for title, (share, num_batches) in _STAGES.items():
        feeds = _feeds(folder, num_batches)
        model = compiled_model(share)
        turns = {name: partial(_measure, model, feed) for name, feed in feeds.items()}
        speeds = take_turns(turns, arguments.rounds)
        print(f"\n{title}")
        print_ratios(speeds, _OURS)


def _feeds(folder: Path, num_batches: int) -> dict[str, Any]:
    """Everything to train on: the loaders by name, and the synthetic batch."""
    import tensorflow as tf

    from foveate.data.loader import BatchLoader
    from foveate.data.manifest import Manifest

    manifest = Manifest.from_folder(folder)
    rows = np.arange(num_batches * _BATCH) % manifest.num_samples
    feeds: dict[str, Any] = {
        name: BatchLoader(manifest.take(rows), _SIZE, _BATCH, shuffle=True, augment=augment)
        for name, augment in _FEEDS.items()
    }
    batch = feeds[_OURS].batch_at(0)
    feeds["arrays in memory"] = _Arrays(batch, num_batches)
    feeds["one batch repeated"] = tf.data.Dataset.from_tensors(batch).repeat(num_batches)
    return feeds


class _Arrays:
    """As many synthetic samples as an epoch has, in the arrays that `fit` takes."""

    def __init__(self, batch: tuple[Any, Any], num_batches: int) -> None:
        inputs, labels = batch
        self.images = {"images": np.concatenate([inputs["images"]] * num_batches)}
        self.labels = np.concatenate([labels] * num_batches)
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches


def compiled_model(share: float, backbone: str = "mobilenet_v3_small") -> Any:
    """Make a model with random weights, compiled as `foveate.training.recipe` does.

    Args:
        share: Of the backbone's layers that are trained.
        backbone: As `model.backbone`.
    """
    from foveate.models.build import ModelInputs, build_model, set_trainable
    from foveate.tasks.classification import Classification
    from foveate.training.optimizers import make_optimizer

    task = Classification([f"class {number}" for number in range(5)])
    config = ModelConfig(backbone=backbone, weights="none")
    model = build_model(config, ModelInputs(_SIZE), task)
    set_trainable(model, share, pretrained=True)
    recipe = RecipeConfig()
    model.compile(
        optimizer=make_optimizer(recipe, recipe.learning_rate, model),
        loss=task.loss(LossConfig(), np.ones(task.num_outputs, np.int64)),
        metrics=task.metrics(),
        jit_compile=runtime.jit_compile(),
    )
    return model


def _measure(model: Any, feed: Any) -> Speed:
    """Train two epochs and time the second: the first fills the queue."""
    import keras

    class Stopwatch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.clock = Clock()

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            self.speed = self.clock.speed(len(feed) * _BATCH)

    stopwatch = Stopwatch()
    if isinstance(feed, _Arrays):
        model.fit(feed.images, feed.labels, _BATCH, epochs=2, verbose=0, callbacks=[stopwatch])
    else:
        model.fit(feed, epochs=2, verbose=0, shuffle=False, callbacks=[stopwatch])
    if hasattr(feed, "close"):
        feed.close()
    return stopwatch.speed


if __name__ == "__main__":
    main()
