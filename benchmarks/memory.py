"""Whether memory grows while training streams many small files.

A small network is trained through our loader; resident memory is read at the end of each epoch.
The first epoch fills queues, caches and the allocator, so growth counts from its end.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from benchmarks.measuring import print_machine
from foveate.config.settings import DataConfig, ModelConfig, RunConfig
from foveate.scale import runtime

_MIB = 1024**2
_COPIES = 6  # of each of scikit-learn's 1,797 digits, each shifted and brightened differently
_SIDE = 28


def main() -> None:
    """Train, then print the memory of each epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="a dataset of your own")
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    runtime.prepare("tensorflow")
    folder = arguments.data or small_files()
    num_files, resident = train(folder, arguments.epochs)
    print_machine("foveate", "keras", "tensorflow-cpu", "tensorflow", "grain")
    print(f"{num_files:,} training files of {folder}\n")
    print("epoch  resident MiB  growth since epoch 1")
    for epoch, size in enumerate(resident, start=1):
        print(f"{epoch:5}  {size / _MIB:12,.1f}  {size / resident[0] - 1:+20.2%}")


def train(folder: Path, epochs: int) -> tuple[int, list[int]]:
    """Train simple_cnn with default augmentation and validation.

    Args:
        folder: Any dataset that `foveate train` takes.
        epochs: At least two, or there is no growth to see.

    Returns:
        Number of training files, and resident bytes at the end of each epoch.
    """
    import keras

    from foveate.models.build import build_model
    from foveate.training.optimizers import make_optimizer
    from foveate.training.prepare import prepare

    resident: list[int] = []

    class Gauge(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            resident.append(psutil.Process().memory_info().rss)

    config = RunConfig(
        data=DataConfig(image_size=(_SIDE, _SIDE), batch_size=64),
        model=ModelConfig(backbone="simple_cnn"),
    )
    prepared = prepare(folder, config)
    model = build_model(config.model, prepared.model_inputs, prepared.task)
    model.compile(
        optimizer=make_optimizer(config.recipe, config.recipe.learning_rate, model),
        loss=prepared.task.loss(config.recipe.loss, prepared.class_counts),
        metrics=prepared.task.metrics(),
        jit_compile=runtime.jit_compile(),
    )
    loaders = [prepared.loader(split, config) for split in ("train", "validation")]
    model.fit(
        loaders[0],
        validation_data=loaders[1],
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=[Gauge()],
    )
    for loader in loaders:
        loader.close()
    return loaders[0].manifest.num_samples, resident


def small_files() -> Path:
    """Write class folders of 10,782 different PNG files, once.

    Returns:
        The folder; under the system's temporary one.
    """
    folder = Path(tempfile.gettempdir()) / "foveate-benchmark-digits"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        _write_digits(Path(part) / "digits")
        (Path(part) / "digits").rename(folder)
    return folder


def _write_digits(folder: Path) -> None:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    rng = np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for number, (ink, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        large = cv2.resize((ink * (255 / 16)).astype(np.uint8), (_SIDE, _SIDE))
        for copy in range(_COPIES):
            shifted = np.roll(large, rng.integers(-2, 3, 2), axis=(0, 1))
            image = cv2.add(shifted, float(rng.integers(-60, 1)))
            name = f"{number:04d}-{copy}.png"
            (folder / str(label) / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())


if __name__ == "__main__":
    main()
