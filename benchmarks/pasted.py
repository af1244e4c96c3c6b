"""The script that people paste together, a contestant of `benchmarks.plain_script`.

Transfer learning as the Keras guide tells it (https://keras.io/guides/transfer_learning/): a head
on a frozen backbone, then all of it at a rate of 1e-5, batch normalization always in inference
mode; augmented by `ImageDataGenerator`. It is better than many in two points: it starts from the
weights that Foveate has, and does without XLA, which slows TensorFlow on a CPU several times.

    python -m benchmarks.pasted TABLE.csv OUTCOME.json --size 224 --epochs 5 5 --seed 0
"""

import argparse
import json
import math
from pathlib import Path

import keras
import pandas as pd
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from foveate.models.backbones import build_backbone

parser = argparse.ArgumentParser()
parser.add_argument("table", help="with the columns image, label, split")
parser.add_argument("outcome", type=Path)
parser.add_argument("--backbone", default="efficientnet_lite0")
parser.add_argument("--size", type=int, nargs=2, default=(224, 224))
parser.add_argument("--epochs", type=int, nargs=2, default=(5, 5))
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

keras.utils.set_random_seed(arguments.seed)
table = pd.read_csv(arguments.table, dtype=str)
augmented = ImageDataGenerator(
    rotation_range=20,
    width_shift_range=0.2,
    height_shift_range=0.2,
    shear_range=math.degrees(math.atan(0.2)),  # it takes an angle
    zoom_range=0.2,
    horizontal_flip=True,
)
flows = {
    split: (augmented if split == "train" else ImageDataGenerator()).flow_from_dataframe(
        table[table["split"] == split],
        x_col="image",
        y_col="label",
        classes=sorted(table["label"].unique()),
        target_size=arguments.size,
        batch_size=32,
        shuffle=split == "train",
        seed=arguments.seed,
        interpolation="bilinear",
    )
    for split in ("train", "validation", "test")
}

backbone = build_backbone(arguments.backbone, arguments.size)
backbone.trainable = False
images = keras.Input((*arguments.size, 3))
x = backbone(images, training=False)
x = keras.layers.GlobalAveragePooling2D()(x)
x = keras.layers.Dropout(0.2)(x)
model = keras.Model(images, keras.layers.Dense(table["label"].nunique(), activation="softmax")(x))

for rate, epochs in zip((1e-3, 1e-5), arguments.epochs, strict=True):
    model.compile(
        keras.optimizers.Adam(rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.fit(flows["train"], validation_data=flows["validation"], epochs=epochs, verbose=2)
    backbone.trainable = True

loss, accuracy = model.evaluate(flows["test"], verbose=0)
arguments.outcome.write_text(json.dumps({"accuracy": accuracy}))
