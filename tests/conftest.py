"""Small real datasets, and runs trained on them once for all tests."""

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import settings
from PIL import Image

os.environ["KERAS_BACKEND"] = "tensorflow"
# Nothing that a user keeps is found or left; child processes see it, too.
os.environ["FOVEATE_CACHE"] = (_cache := tempfile.TemporaryDirectory(prefix="foveate-")).name

from foveate.scale import runtime

runtime.prepare("tensorflow")

# The same examples every time: what lands is what was tested. `--hypothesis-profile default`
# searches anew; what it finds belongs into an `@example`.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

TINY = {
    "data.image_size": "16",
    "data.batch_size": "16",
    "augment.preset": "none",
    "model.backbone": "simple_cnn",
    "model.decoder_channels": "32,16,16,8,8",
    "recipe.epochs": "3",
    "loader.threads": "2",
}
"""Settings under which a small real training takes seconds."""

BACKBONES = """
import keras

def plain(input_shape):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(inputs / 255)
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    return keras.Model(inputs, x, name="plain")

def flat(input_shape):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(1, 3, strides=4)(inputs)
    x = keras.layers.Dense(4)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Reshape((1, 1, 4))(x))
"""
"""Of a user: one keeps its layers at any image size, one does not."""


@pytest.fixture(scope="module", autouse=True)
def little_garbage() -> None:
    """Runs and Keras Tuner look for garbage: not among all that was imported, as in a command."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def digit_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three handwritten digits, 150 real images, in class folders."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("data") / "digits"
    digits = load_digits()
    for name in range(3):
        (folder / f"digit {name}").mkdir(parents=True)
        images = digits.images[digits.target == name][:50]
        for number, image in enumerate(images):
            pixels = (image * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"digit {name}" / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def digit_table(digit_folders: Path) -> Path:
    """The same digits as a CSV with metadata: ink tells the digit in part, some is missing."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for path in sorted(digit_folders.rglob("*.png")):
        ink = float(np.asarray(Image.open(path)).mean())
        rows.append(
            {
                "image": path.relative_to(digit_folders).as_posix(),
                "label": path.parent.name,
                "ink": None if rng.random() < 0.1 else ink,
                "shade": "dark" if ink > 75 else "light",
                "writer": f"writer {len(rows) % 30}",
            }
        )
    pl.DataFrame(rows).write_csv(digit_folders / "digits.csv")
    return digit_folders / "digits.csv"


@pytest.fixture(scope="session")
def mask_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty digits pasted on a photograph's texture, with exact masks 0 and 255."""
    from skimage import data
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("data") / "scenes"
    rng = np.random.default_rng(0)
    texture, digits = data.gravel() // 2, load_digits().images
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(60):
        top, left = rng.integers(0, 512 - 32, 2)
        image = texture[top : top + 32, left : left + 32].copy()
        ink = np.kron(digits[number], np.ones((3, 3))) > 7
        y, x = rng.integers(0, 32 - 24, 2, endpoint=True)
        image[y : y + 24, x : x + 24][ink] = 250
        mask = np.zeros((32, 32), np.uint8)
        mask[y : y + 24, x : x + 24][ink] = 255
        Image.fromarray(image).save(folder / "images" / f"{number:02d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., Any]:
    """Makes settings of a small training from flags."""
    from foveate.config.files import load_config

    return lambda **flags: load_config(
        None, {**TINY, **{key.replace("__", "."): str(value) for key, value in flags.items()}}
    )


@pytest.fixture(scope="session")
def resized(
    tiny_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Any]]:
    """Makes settings of a run from scratch with two epochs at 32 pixels, then two at 64."""
    folder = tmp_path_factory.mktemp("backbone")
    (folder / "users_backbones.py").write_text(BACKBONES)
    settings = {
        "model__backbone": "users_backbones:plain",
        "data__image_size": 64,
        "data__batch_size": 20,
        "augment__preset": "strong",
        "recipe__epochs": 4,
        "recipe__image_sizes": 2,
        "checkpoint__every_steps": 2,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield lambda **flags: tiny_config(**{**settings, **flags})


@pytest.fixture(scope="session")
def digit_run(
    digit_folders: Path, tiny_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A finished classification run."""
    from foveate.training.recipe import train

    folder = tmp_path_factory.mktemp("runs") / "digits"
    return train(digit_folders, tiny_config(recipe__epochs=8), folder)


@pytest.fixture(scope="session")
def metadata_run(
    digit_table: Path, tiny_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A finished classification run with metadata, split by writer."""
    from foveate.training.recipe import train

    folder = tmp_path_factory.mktemp("runs") / "metadata"
    config = tiny_config(data__metadata="ink,shade", data__group="writer", recipe__epochs=5)
    return train(digit_table, config, folder)


@pytest.fixture(scope="session")
def mask_run(
    mask_folders: Path, tiny_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A finished segmentation run."""
    from foveate.training.recipe import train

    folder = tmp_path_factory.mktemp("runs") / "masks"
    config = tiny_config(data__image_size=32, data__batch_size=8, recipe__epochs=8)
    return train(mask_folders, config, folder)


@pytest.fixture(scope="session")
def on_backend() -> Callable[[str, Path, Any], Any]:
    """Runs a script on a Keras backend in a process of its own; JSON in, JSON out."""

    def run(backend: str, script: Path, argument: Any) -> Any:
        environment = {**os.environ, "KERAS_BACKEND": backend}
        done = subprocess.run(
            [sys.executable, str(script), json.dumps(argument)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if done.returncode:
            raise AssertionError(done.stderr[-4000:])
        return json.loads(done.stdout.strip().splitlines()[-1])

    return run
