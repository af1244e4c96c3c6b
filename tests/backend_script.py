"""What must hold on every Keras backend; run with KERAS_BACKEND set, prints JSON.

A user's own model and `fit` around our loader, accumulated gradients against a large batch, the
mask losses with weights, and an epoch that is cut short.
"""

import json
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from foveate.config.recipe import RecipeConfig
from foveate.config.settings import SplitConfig
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest
from foveate.data.splits import assign_splits
from foveate.scale import runtime
from foveate.tasks.losses import CrossEntropyDiceLoss
from foveate.training.callbacks import TimeKeeper
from foveate.training.clock import Clock, Pace, RunTime, StageTime
from foveate.training.optimizers import make_optimizer

warnings.simplefilter("error", UserWarning)


def users_own_fit(folder: str) -> dict[str, Any]:
    """Fit a plain model with Keras' default arguments; say what the loader handed out."""
    manifest = assign_splits(Manifest.from_folder(folder), SplitConfig(), seed=0)
    handed: list[list[int]] = []

    class Watched(BatchLoader):
        def __iter__(self) -> Iterator[Any]:
            epoch = self.epoch
            for index, batch in enumerate(super().__iter__()):
                handed.append([epoch, *self.rows_at(epoch * len(self) + index).tolist()])
                yield batch

    loader = Watched(manifest.split("train"), (8, 8), 16, shuffle=True, seed=1)
    validation = BatchLoader(manifest.split("validation"), (8, 8), 16)
    images = keras.Input((8, 8, 3), dtype="uint8", name="images")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    model = keras.Model({"images": images}, keras.layers.Dense(3)(flat))
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=runtime.jit_compile(),
    )
    history = model.fit(loader, validation_data=validation, epochs=6, verbose=0).history
    scores = model.evaluate(validation, verbose=0, return_dict=True)
    predictions = model.predict(validation, verbose=0)
    loader.close()
    return {
        "handed": handed,
        "num_batches": len(loader),
        "num_rows": loader.manifest.num_samples,
        "accuracy": history["val_accuracy"][-1],
        "evaluated": scores["accuracy"],
        "predicted": len(predictions),
        "validation_rows": validation.manifest.num_samples,
    }


def accumulation() -> float:
    """Largest difference of weights after ten steps: 4 batches of 2 against 1 batch of 8."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6)).astype("float32")
    y = rng.integers(0, 3, 80)

    def trained(steps: int, batch_size: int) -> list[np.ndarray[Any, Any]]:
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(3)]
        )
        config = RecipeConfig.model_validate(
            {
                "optimizer": {"name": "adamw", "clip_norm": 1.0, "weight_decay": 0.01},
            }
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            make_optimizer(config, 0.01, model, steps), loss, jit_compile=runtime.jit_compile()
        )
        model.fit(x, y, batch_size=batch_size, epochs=1, shuffle=False, verbose=0)
        return [np.asarray(weight) for weight in model.get_weights()]

    pairs = zip(trained(4, 2), trained(1, 8), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def weighted_masks() -> list[float]:
    """Losses of three steps of a convolution on masks with ignored pixels and class weights."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 6, 7, 3)).astype("float32")
    masks = rng.choice(np.array([0, 1, 255], np.uint8), (4, 6, 7))
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 7, 3)), keras.layers.Conv2D(2, 3, padding="same")])
    loss = CrossEntropyDiceLoss(label_smoothing=0.1, class_weights=(0.5, 1.5))
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=runtime.jit_compile())
    return [float(model.train_on_batch(images, masks)) for _ in range(3)]


def cut_short(folder: str) -> dict[str, Any]:
    """Fit with a time that is up in the middle of the third epoch; a batch takes a second."""
    manifest = assign_splits(Manifest.from_folder(folder), SplitConfig(), seed=0)
    loader = BatchLoader(
        manifest.split("train"), (8, 8), 8, shuffle=True, remainder="drop", cycle=2
    )
    validation = BatchLoader(manifest.split("validation"), (8, 8), 16)
    images = keras.Input((8, 8, 3), dtype="uint8", name="images")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    model = keras.Model({"images": images}, keras.layers.Dense(3)(flat))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss, jit_compile=runtime.jit_compile())
    trained: list[int] = []
    time = RunTime(44.0, Clock(lambda: float(len(trained))), Pace(8, 15), 0, end=9.0)
    keeper = TimeKeeper(StageTime(time, 1.0, 0.0, cycle=2), loader, None, is_first=True)
    counts = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: trained.append(batch)
    )
    history = model.fit(
        loader, validation_data=validation, epochs=9, callbacks=[counts, keeper], verbose=0
    )
    loader.close()
    validation.close()
    return {"batches": len(trained), "epochs": history.history["val_loss"], "why": keeper.ended}


if __name__ == "__main__":
    argument = json.loads(sys.argv[1])
    outcome = {
        "fit": users_own_fit(argument),
        "accumulation": accumulation(),
        "weighted_masks": weighted_masks(),
        "cut_short": cut_short(argument),
    }
    print(json.dumps(outcome))
