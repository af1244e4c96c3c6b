"""Whole models: every kind of backbone, task and metadata, saved, loaded, frozen, seeded."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from sklearn.datasets import load_digits

from foveate.config.settings import ModelConfig
from foveate.errors import ConfigError
from foveate.models.build import ModelInputs, build_model, set_trainable, split_model
from foveate.models.fusion import (
    HIDDEN_SHARE,
    CategoryEmbeddings,
    MetadataInputs,
    NumericEncoding,
    embedding_size,
)

# TensorFlow's tensors meet NumPy 2 with an old signature of __array__.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (32, 40)
TASKS: dict[str, Any] = {
    "classification": SimpleNamespace(num_outputs=3, per_pixel=False),
    "segmentation": SimpleNamespace(num_outputs=2, per_pixel=True),
}
METADATA = MetadataInputs((1.0, 2.0), (3.0, 0.5), (False, True), (3, 5))


def small(**settings: Any) -> ModelConfig:
    return ModelConfig(**{"backbone": "simple_cnn", "weights": "none", **settings})


def batch(metadata: MetadataInputs | None) -> dict[str, Any]:
    images = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    if metadata is None:
        return {"images": images}
    # Missing, ordinary and impossible numbers; missing, unknown, first and last categories.
    numeric = np.array([[np.nan, 0.0], [5.0, np.nan], [np.inf, -2.0]], np.float32)
    return {"images": images, "numeric": numeric, "categories": np.array([[0, 1], [1, 2], [4, 6]])}


def predict(model: keras.Model, inputs: dict[str, Any], training: bool = False) -> Any:
    return keras.ops.convert_to_numpy(model(inputs, training=training))


@pytest.fixture
def bfloat16() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("fusion", ["image_only", "concatenate", "film"])
@pytest.mark.parametrize("backbone", ["simple_cnn", "mobilenet"])
class TestModel:
    def test_gives_logits_and_survives_saving(
        self, backbone: str, fusion: str, task: str, tmp_path: Path
    ) -> None:
        metadata = None if fusion == "image_only" else METADATA
        config = small(backbone=backbone, fusion="concatenate" if metadata is None else fusion)
        model = build_model(config, ModelInputs(SIZE, metadata), TASKS[task])
        inputs = batch(metadata)
        logits = predict(model, inputs)
        num_outputs = TASKS[task].num_outputs
        assert logits.shape == ((3, *SIZE, num_outputs) if task == "segmentation" else (3, 3))
        assert logits.dtype == np.float32
        assert np.isfinite(logits).all()
        assert model.get_layer("backbone").name == "backbone"
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(predict(loaded, inputs), logits)


class TestPrecision:
    @pytest.mark.parametrize("task", TASKS)
    def test_logits_are_float32_under_half_precision(self, task: str, bfloat16: None) -> None:
        model = build_model(small(fusion="film"), ModelInputs(SIZE, METADATA), TASKS[task])
        assert predict(model, batch(METADATA)).dtype == np.float32
        assert model.get_layer("backbone").outputs[-1].dtype == "bfloat16"


class TestSeed:
    @pytest.mark.parametrize("training", [False, True])
    def test_determines_weights_and_dropout(self, training: bool) -> None:
        models = [
            build_model(small(), ModelInputs(SIZE, METADATA), TASKS["classification"], seed)
            for seed in (1, 1, 2)
        ]
        one, same, other = (predict(model, batch(METADATA), training) for model in models)
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other)


class TestSetTrainable:
    @pytest.fixture
    def model(self) -> keras.Model:
        return build_model(small(), ModelInputs(SIZE), TASKS["classification"])

    def weighted(self, model: keras.Model) -> list[Any]:
        network = model.get_layer("backbone").get_layer("simple_cnn")
        return [layer for layer in network.layers if layer.weights]

    def test_frozen_leaves_the_head(self, model: keras.Model) -> None:
        assert set_trainable(model, 0.0, pretrained=True) == 256 * 3 + 3
        assert not model.get_layer("backbone").trainable_weights

    def test_share_counts_from_the_top(self, model: keras.Model) -> None:
        set_trainable(model, 0.3, pretrained=False)
        flags = [layer.trainable for layer in self.weighted(model)]
        # Seven convolutions, each with its normalization: the upper ceil(0.3 * 14) = 5 train.
        assert flags == [False] * 9 + [True] * 5

    def test_everything_but_moving_statistics(self, model: keras.Model) -> None:
        num_channels = 32 + 2 * (64 + 128 + 256)
        total = model.count_params() - sum(
            math.prod(weight.shape) for weight in model.non_trainable_weights
        )
        assert set_trainable(model, 1.0, pretrained=False) == total
        # Pretrained normalization keeps its scale and shift, too.
        assert set_trainable(model, 1.0, pretrained=True) == total - 2 * num_channels

    @pytest.mark.parametrize("pretrained", [True, False])
    def test_statistics_move_only_from_scratch(self, model: keras.Model, pretrained: bool) -> None:
        set_trainable(model, 1.0, pretrained)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        norm = model.get_layer("backbone").get_layer("simple_cnn").get_layer("block2a_bn")
        before = [np.array(array) for array in norm.get_weights()]
        model.train_on_batch(batch(None), np.array([0, 1, 2]))
        changed = [
            not np.array_equal(*pair) for pair in zip(before, norm.get_weights(), strict=True)
        ]
        assert any(changed) is not pretrained

    def test_survives_saving(self, model: keras.Model, tmp_path: Path) -> None:
        count = set_trainable(model, 0.3, pretrained=True)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert sum(math.prod(weight.shape) for weight in loaded.trainable_weights) == count

    def test_pretrained_models_are_built_with_fixed_statistics(self, tmp_path: Path) -> None:
        scratch = build_model(small(), ModelInputs(SIZE), TASKS["classification"])
        scratch.save(tmp_path / "scratch.keras")
        config = small(weights=str(tmp_path / "scratch.keras"))
        model = build_model(config, ModelInputs(SIZE), TASKS["segmentation"], seed=1)
        kinds = {type(layer).__name__: layer.trainable for layer in self.weighted(model)}
        assert kinds == {"Conv2D": True, "BatchNormalization": False}
        old, new = (self.weighted(one)[0].get_weights()[0] for one in (scratch, model))
        np.testing.assert_array_equal(old, new)


class TestHead:
    def test_penalties_are_on_the_kernel(self) -> None:
        model = build_model(small(l1=0.5, l2=0.25), ModelInputs(SIZE), TASKS["classification"])
        kernel = model.get_layer("logits").get_weights()[0]
        expected = 0.5 * np.abs(kernel).sum() + 0.25 * np.square(kernel).sum()
        assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)

    def test_both_poolings_side_by_side(self) -> None:
        model = build_model(small(pooling="both"), ModelInputs(SIZE), TASKS["classification"])
        assert model.get_layer("logits").get_weights()[0].shape == (512, 3)

    def test_film_starts_as_the_identity(self) -> None:
        inputs = ModelInputs(SIZE, METADATA)
        model = build_model(small(fusion="film"), inputs, TASKS["classification"])
        given_inputs = batch(METADATA)
        shuffled = {**given_inputs, "numeric": given_inputs["numeric"][::-1].copy()}
        np.testing.assert_array_equal(predict(model, given_inputs), predict(model, shuffled))


class TestNumericEncoding:
    def test_scales_logs_and_marks(self) -> None:
        layer = NumericEncoding(METADATA.means, METADATA.deviations, METADATA.log)
        values = np.array([[7.0, math.expm1(2.5)], [np.nan, -2.0]], np.float32)
        encoded = keras.ops.convert_to_numpy(layer(values))
        # (7 - 1) / 3 and (2.5 - 2) / 0.5; then NaN and a number without a logarithm.
        np.testing.assert_allclose(encoded, [[2, 1, 0, 0], [0, 0, 1, 1]], atol=1e-6)

    def test_constant_column(self) -> None:
        encoded = NumericEncoding([4.0], [0.0], [False])(np.array([[4.0]], np.float32))
        assert keras.ops.convert_to_numpy(encoded).tolist() == [[0.0, 0.0]]

    @settings(max_examples=50, deadline=None)
    @given(arrays(np.float32, (3, 2)))
    def test_never_leaves_its_range(self, values: Any) -> None:
        layer = NumericEncoding(METADATA.means, METADATA.deviations, METADATA.log)
        encoded = keras.ops.convert_to_numpy(layer(values))
        assert (np.abs(encoded) <= 10).all()
        assert np.isin(encoded[:, 2:], (0, 1)).all()

    def test_hides_a_share_in_training_only(self) -> None:
        layer = NumericEncoding([0.0], [1.0], [False])
        values = np.ones((20_000, 1), np.float32)
        missing = keras.ops.convert_to_numpy(layer(values, training=True))[:, 1]
        # Five standard deviations of a binomial.
        slack = 5 * math.sqrt(HIDDEN_SHARE * (1 - HIDDEN_SHARE) / len(values))
        assert missing.mean() == pytest.approx(HIDDEN_SHARE, abs=slack)
        assert keras.ops.convert_to_numpy(layer(values))[:, 1].sum() == 0


class TestCategoryEmbeddings:
    def test_looks_up_every_id(self) -> None:
        layer = CategoryEmbeddings([3])
        vectors = keras.ops.convert_to_numpy(layer(np.arange(5)[:, None]))
        np.testing.assert_array_equal(vectors, layer.get_weights()[0])
        assert np.isfinite(vectors).all()

    def test_reserved_rows_are_trained_though_absent(self) -> None:
        layer = CategoryEmbeddings([3])
        ids = np.full((20_000, 1), 2)
        vectors = keras.ops.convert_to_numpy(layer(ids, training=True))
        table = layer.get_weights()[0]
        share = HIDDEN_SHARE / 2
        slack = 5 * math.sqrt(share * (1 - share) / len(ids))
        for row in (0, 1):
            assert (vectors == table[row]).all(axis=1).mean() == pytest.approx(share, abs=slack)

    # min(32, ceil(1.6 n^0.56)): 1.6; 1.6 * 3.63 = 5.8; 1.6 * 47.9 = 76.6.
    @pytest.mark.parametrize(("size", "expected"), [(1, 2), (10, 6), (1000, 32)])
    def test_size_rule(self, size: int, expected: int) -> None:
        assert embedding_size(size) == expected


class TestMetadataInputs:
    def test_unequal_lengths(self) -> None:
        with pytest.raises(ConfigError, match=r"\(2, 1, 1\)"):
            MetadataInputs((1.0, 2.0), (1.0,), (False,))

    def test_no_columns(self) -> None:
        with pytest.raises(ConfigError, match="at least one column"):
            MetadataInputs()

    @pytest.mark.parametrize(
        ("metadata", "names"),
        [
            (MetadataInputs((0.0,), (1.0,), (False,)), {"images", "numeric"}),
            (MetadataInputs(vocabulary_sizes=(2,)), {"images", "categories"}),
        ],
    )
    def test_one_kind_alone(self, metadata: MetadataInputs, names: set[str]) -> None:
        model = build_model(small(), ModelInputs(SIZE, metadata), TASKS["classification"])
        assert {tensor.name for tensor in model.inputs} == names


def test_simple_cnn_learns_the_digits() -> None:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = np.repeat((digits.images[order, ..., None] * 15.9).astype(np.uint8), 3, axis=-1)
    labels = digits.target[order]
    task: Any = SimpleNamespace(num_outputs=10, per_pixel=False)
    model = build_model(small(), ModelInputs((8, 8)), task)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, decay_steps=6 * 22)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rate), loss)
    model.fit({"images": images[:1400]}, labels[:1400], batch_size=64, epochs=6, verbose=0)
    answers = model.predict({"images": images[1400:]}, verbose=0).argmax(axis=1)
    assert (answers == labels[1400:]).mean() >= 0.97


def test_loads_where_only_the_package_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    build_model(small(), ModelInputs(SIZE, METADATA), TASKS["classification"]).save(path)
    code = f"import keras, foveate.models; print(keras.saving.load_model({str(path)!r}).name)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "foveate"


def test_the_head_on_features_has_its_loss_scaled_as_the_model_has() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build_model(small(), ModelInputs(SIZE, None), TASKS["classification"], 0)
    finally:
        keras.config.set_dtype_policy(before)
    _, head = split_model(model)
    for one in (model, head):
        one.compile("sgd", "mse")
        assert isinstance(one.optimizer, keras.optimizers.LossScaleOptimizer)
