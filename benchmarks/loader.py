"""How fast our loader is beside its peers, and beside decoding alone.

The same JPEG files, batches of 32 at 224x224, the same recipe (rotation 20 degrees, shift, shear
and zoom 0.2, left-right flip, the edge's own pixels beyond the border, which is what
`ImageDataGenerator` does) and as many threads as cores for all.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import simplejpeg

from benchmarks.measuring import (
    Stream,
    loader_stream,
    measure_stream,
    print_machine,
    print_ratios,
    take_turns,
)
from benchmarks.photographs import photograph_folder
from foveate.config.augmentation import AugmentConfig, GeometryConfig
from foveate.scale import runtime

RECIPE = AugmentConfig(
    preset="none",
    geometry=GeometryConfig(
        rotation=20, shift=0.2, shear=0.2, zoom=0.2, horizontal_flip=0.5, border="nearest"
    ),
)
"""The recipe of all contestants, in our words."""

_SIZE = (224, 224)
_BATCH = 32
_OURS = "foveate"
Item = TypeVar("Item")
Batches = Generator[int, None, None]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="class folders of JPEG files of your own")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each in each round")
    arguments = parser.parse_args()
    runtime.prepare("tensorflow")
    folder = arguments.data or photograph_folder()
    streams = contestants(folder, arguments.threads)
    turns = {
        name: partial(measure_stream, stream, arguments.seconds)
        for name, stream in streams.items()
    }
    speeds = take_turns(turns, arguments.rounds)
    print_machine("foveate", "keras", "tensorflow-cpu", "tensorflow", "nvidia-dali-cuda120")
    print(f"{arguments.threads} threads, {arguments.rounds} rounds in turn\n")
    print_ratios(speeds, _OURS)


def contestants(folder: Path, threads: int) -> dict[str, Stream]:
    """Prepare everybody.

    Args:
        folder: Class folders of JPEG files.
        threads: For each of them.

    Returns:
        Name to stream; DALI only where it is installed.
    """
    flow = _image_data_generator(folder)
    streams: dict[str, Stream] = {
        _OURS: _foveate(folder, threads),
        "ImageDataGenerator": partial(_by_index, flow, threads=1),
        "the same in threads": partial(_by_index, flow, threads=threads),
        "Keras layers": _keras_layers(folder, threads),
    }
    if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
        streams["DALI on the CPU"] = _dali(folder, threads)
    return streams | {"decoding alone": _decoding(folder, threads)}


def _foveate(folder: Path, threads: int) -> Stream:
    from foveate.data.loader import BatchLoader
    from foveate.data.manifest import Manifest

    loader = BatchLoader(
        Manifest.from_folder(folder), _SIZE, _BATCH, shuffle=True, augment=RECIPE, threads=threads
    )
    return loader_stream(loader)


def _image_data_generator(folder: Path) -> Any:
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        rotation_range=20,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=math.degrees(math.atan(0.2)),  # it takes an angle
        zoom_range=0.2,
        horizontal_flip=True,
    )
    return generator.flow_from_directory(str(folder), target_size=_SIZE, batch_size=_BATCH)


def _by_index(flow: Any, threads: int) -> Batches:
    """As Keras' workers do: they call a PyDataset by index, one of them unless told otherwise."""
    return threaded(lambda index: len(flow[index][1]), range(len(flow)), threads)


def _keras_layers(folder: Path, threads: int) -> Stream:
    import keras
    import tensorflow as tf

    layers = [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(20 / 360, fill_mode="nearest"),
        keras.layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
        keras.layers.RandomShear(0.2, fill_mode="nearest"),
        keras.layers.RandomZoom(0.2, fill_mode="nearest"),
    ]

    def augment(images: Any, labels: Any) -> tuple[Any, Any]:
        for layer in layers:
            images = layer(images, training=True)
        return images, labels

    dataset = keras.utils.image_dataset_from_directory(
        str(folder), image_size=_SIZE, batch_size=_BATCH, verbose=False
    )
    dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE).repeat()
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    dataset = dataset.prefetch(tf.data.AUTOTUNE).with_options(options)

    def stream() -> Batches:
        for _, labels in dataset:
            yield len(labels)

    return stream


def _dali(folder: Path, threads: int) -> Stream:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=_BATCH, num_threads=threads, device_id=None)
    def pipeline() -> tuple[Any, Any]:
        files, labels = fn.readers.file(file_root=str(folder), random_shuffle=True)
        images = fn.resize(fn.decoders.image(files, device="cpu"), size=_SIZE)
        zoom = fn.random.uniform(range=(0.8, 1.2))
        flip = 1 - 2 * fn.random.coin_flip()
        center = (_SIZE[1] / 2, _SIZE[0] / 2)
        shift = fn.random.uniform(range=(-0.2 * _SIZE[0], 0.2 * _SIZE[0]), shape=(2,))
        shear = fn.stack(fn.random.uniform(range=(-0.2, 0.2)), 0.0)
        change = fn.transforms.combine(
            fn.transforms.rotation(angle=fn.random.uniform(range=(-20.0, 20.0)), center=center),
            fn.transforms.shear(shear=shear, center=center),
            fn.transforms.scale(scale=fn.stack(zoom * flip, zoom), center=center),
            fn.transforms.translation(offset=shift),
        )
        return fn.warp_affine(images, change, interp_type=types.INTERP_LINEAR), labels

    running = pipeline()
    running.build()

    def stream() -> Batches:
        while True:
            _, labels = running.run()
            yield len(labels)

    return stream


def _decoding(folder: Path, threads: int) -> Stream:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]

    def decode(batch: Sequence[Path]) -> int:
        for path in batch:
            simplejpeg.decode_jpeg(path.read_bytes(), "RGB")
        return len(batch)

    return partial(threaded, decode, batches, threads)


def threaded(function: Callable[[Item], int], items: Sequence[Item], threads: int) -> Batches:
    """Yield what a function gives for each item, again and again, with no pause in between."""
    pool = ThreadPoolExecutor(threads)
    try:
        ahead = [pool.submit(function, items[index % len(items)]) for index in range(2 * threads)]
        index = len(ahead)
        while True:
            yield ahead.pop(0).result()
            ahead.append(pool.submit(function, items[index % len(items)]))
            index += 1
    finally:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main()
